"""A base class for servers that run as long as a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

Self = TypeVar("Self", bound="Server")


class Server(ABC):
    """``with ServerClass() as server:`` starts it, and stops it afterwards."""

    @abstractmethod
    def start(self) -> None:
        """Starts it; returns when it accepts requests."""

    @abstractmethod
    def stop(self) -> None:
        """Stops it, even if it has started only in part."""

    def __enter__(self: Self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
