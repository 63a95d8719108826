"""The HTTP API, with the paths and shapes of the AUTOMATIC1111 web UI."""
