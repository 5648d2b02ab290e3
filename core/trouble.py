"""A trouble is logged once when it begins and once when it is over, however often it is met in between."""

from __future__ import annotations


class Trouble:
    """What is wrong just now with one thing: a disk, a server, a task.

    Its methods say whether there is something new to tell; the caller has the words::

        if self._trouble.begins(text):
            logger.warning("The disk refuses: %s", text)
        ...
        if self._trouble.ends():
            logger.warning("The disk works again")
    """

    def __init__(self) -> None:
        self.current = ""
        """Empty: nothing is wrong."""

    def begins(self, what: str) -> bool:
        """Something is wrong. Whether that is new, or other than what was wrong before."""
        is_new = what != self.current
        self.current = what
        return is_new

    def ends(self) -> bool:
        """Nothing is wrong any more. Whether something was."""
        was_wrong = bool(self.current)
        self.current = ""
        return was_wrong


def trouble_of(error: BaseException) -> str:
    """An error in a few words, never empty: the operating system's, the error's own, or its kind."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
