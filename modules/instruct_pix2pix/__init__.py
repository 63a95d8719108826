"""Edit a picture by saying what to change: instruct-pix2pix as a library."""

__version__ = "0.1.0"
