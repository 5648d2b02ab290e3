"""The pool of threads behind ``asyncio.to_thread``, for a process that must be able to end while a disk hangs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class ImpatientPool(ThreadPoolExecutor):
    """A pool whose end does not wait for work that is still running, such as reading from a disk that does not answer.

    ``asyncio.run`` waits for the default pool without a limit. The process must end with ``os._exit``, as the
    interpreter waits for the threads of every pool at an ordinary exit.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)
