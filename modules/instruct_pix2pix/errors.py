"""The one exception whose text is meant for a person."""


class UserError(Exception):
    """One sentence: what was wrong and what to do. Every door shows it without a traceback."""


class Interrupted(Exception):  # noqa: N818 - an outcome, not an error
    """The person stopped the edit between two steps."""
