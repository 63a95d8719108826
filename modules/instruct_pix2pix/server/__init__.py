"""The server: the page and the HTTP API, behind one worker that owns the model."""
