"""Kernels of our own, compiled where the processor or the GPU takes them."""
