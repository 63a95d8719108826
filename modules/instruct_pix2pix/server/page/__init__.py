"""The page of the stand-alone program, in the manner of the AUTOMATIC1111 web UI."""
