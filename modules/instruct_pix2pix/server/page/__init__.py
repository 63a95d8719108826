"""The page, in the manner of the AUTOMATIC1111 web UI."""
