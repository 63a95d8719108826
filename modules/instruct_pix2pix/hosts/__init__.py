"""The extension in a host web GUI: how a job begins, how the picture is encoded, how the denoiser is guided."""
