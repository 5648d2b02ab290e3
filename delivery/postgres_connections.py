"""A small pool of connections to Postgres, on an event loop of its own thread.

psycopg's asyncio interface does not run on the default event loop of Windows, so on every system all connections use a
loop of their own thread.

psycopg_pool is not used because it connects in the background: its caller gets a PoolTimeout after the whole timeout,
without the reason (a wrong password: after 10 s instead of 0.1 s).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import RetryLater
from delivery.items import CALL_TIMEOUT_SECONDS
from delivery.postgres_errors import classify_error

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

MAX_CONNECTIONS = 4
CONNECT_SECONDS = 10


class Connections:
    """Connections to one database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._thread = _LoopThread()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine that uses :meth:`connection` or :meth:`execute` on their loop. Cancelling this cancels it.

        Raises:
            RecorderError: it failed, or took too long; the class says who must act.
        """
        return await self._thread.run(self._in_time(work))

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        import psycopg

        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                return await work
        except psycopg.Error as error:
            raise classify_error(error) from None
        except (TimeoutError, OSError) as error:
            raise RetryLater(f"the database does not answer ({type(error).__name__})") from None

    async def execute(self, statement: str, values: Sequence[Any]) -> None:
        """Runs one statement, and repeats it once if the server had closed the idle connection."""
        import psycopg

        for attempt in (1, 2):
            was_idle = bool(self._idle)
            try:
                async with self.connection() as connection:
                    await connection.execute(statement, values)
                return
            except psycopg.OperationalError as error:
                # The server may close an idle connection; this is no reason to report an error and wait.
                if attempt == 2 or not was_idle or error.sqlstate is not None:
                    raise

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Takes a connection from the pool for one use. If the use is cancelled, the connection is closed."""
        async with self._slots:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                yield connection
            except BaseException as error:
                if isinstance(error, Exception) and not connection.broken and not connection.closed:
                    self._idle.append(connection)
                else:
                    await connection.close()
                raise
            self._idle.append(connection)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        import psycopg

        return await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,  # poolers in transaction mode do not support prepared statements
            connect_timeout=CONNECT_SECONDS,
            application_name="voice-segmenter",
        )

    async def aclose(self) -> None:
        """Closes the connections. Idempotent."""
        await self._thread.close(self._close_idle)

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()


class _LoopThread:
    """An event loop on a thread of its own, of a kind that psycopg supports."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on that loop. Cancelling this cancels it."""
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="postgres", daemon=True)
            self._thread.start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def close(self, last: Any) -> None:
        if self._loop is None or self._thread is None:
            return
        loop, thread, self._loop = self._loop, self._thread, None
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(last(), loop))
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()
