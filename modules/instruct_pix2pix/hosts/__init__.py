"""The extension's side of a host web GUI: what it loads, how it encodes, where its denoiser is wrapped."""
