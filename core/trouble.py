"""Logs a problem once when it begins and once when it ends, however often it occurs in between."""

from __future__ import annotations


class Trouble:
    """The current problem of one thing: a disk, a server, a task.

    Its methods return whether something is to be logged; the caller logs it::

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
        """Sets the problem. Returns whether it differs from the one before."""
        is_new = what != self.current
        self.current = what
        return is_new

    def ends(self) -> bool:
        """Clears the problem. Returns whether there was one."""
        was_wrong = bool(self.current)
        self.current = ""
        return was_wrong


def trouble_of(error: BaseException) -> str:
    """A short text for an error, never empty: the system's text, else the error's own, else its class name."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
