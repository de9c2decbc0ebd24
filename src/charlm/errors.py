"""The one error that a user can cause: its text is the whole message."""

import re


def masked(text: str) -> str:
    """Return a text without the passwords of the addresses in it.

    >>> masked("http://me:secret@host failed")
    'http://me:***@host failed'
    """
    return re.sub(r"(://[^\s/:@]*):[^\s/@]*@", r"\1:***@", text)


class UserError(Exception):
    """Bad input, said in one line: what is wrong, where, and what is allowed; without passwords."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))
