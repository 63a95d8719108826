"""Tells a container's health: ends with status 0 where the server answers, also where it asks for a password."""

import http.client
import sys

PORT = 7860


def is_healthy(port: int, seconds: float = 4.0) -> bool:
    """Whether a server of this machine answers on a port, and with no fault of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("HEAD", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_healthy(int(sys.argv[1]) if len(sys.argv) > 1 else PORT))
