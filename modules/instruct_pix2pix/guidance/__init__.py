"""The dual guidance: `rows` is the paper, `dual` the denoiser, `cached` what makes it cheaper."""
