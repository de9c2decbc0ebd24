"""The one error that a user can cause: its text is the whole message."""


class UserError(Exception):
    """Bad input, said in one line: what is wrong, where, and what is allowed."""
