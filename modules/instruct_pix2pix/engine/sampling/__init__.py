"""The way from noise to a latent: noise levels, the samplers that walk down them, the noise of each picture."""
