"""The results of a session: who keeps what, its place on the page, what happens to it, and its pictures."""
