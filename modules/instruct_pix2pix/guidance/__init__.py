"""The dual guidance: `rows` is the paper, `denoiser` sums them, `cached` makes it cheaper; `dual` is a model's of ours."""
