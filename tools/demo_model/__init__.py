"""The demo model: a tiny instruct-pix2pix model and the drawn world it is trained on."""
