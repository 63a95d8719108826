"""The dual guidance: `rows` is the paper, `denoiser` sums the rows, `dual` does it for the engine."""
