"""The panes of the tab img2img, a file each; layout.py puts them together."""
