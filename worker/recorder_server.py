"""The framework's server object, extended: which rooms this worker records, and the tasks that run beside them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from livekit import api
from livekit.agents import AgentServer, JobExecutorType, JobProcess, WorkerPermissions
from livekit.protocol import agent

from archive.files import prepare_output_dir
from config import Settings
from core.errors import ConfigError
from core.supervised import supervised
from recording.room_recorder import RoomRecorder
from recording.speech_detector import load_detector
from worker.capacity import default_max_rooms
from worker.handover import hand_over
from worker.health import health_answer
from worker.joins import JoinQueue
from worker.orphan_watch import OrphanWatch
from worker.overload import Overload
from worker.reconciler import Reconciler
from worker.server_access import wait_for_server
from worker.services import Services
from worker.supervisor import tell_port

logger = logging.getLogger("recorder")

JOINS_AT_ONCE = 4
"""How many rooms join at the same time. All rooms share one native client; many at once slow it down until its timeout
of 15 s ends the process (fact 18b)."""

DRAIN_POLL_SECONDS = 1.0
FULL_LOAD = 1.0
MAX_LOAD_WITH_CAPACITY = 0.65
"""The load just before the worker is full: the server gives no rooms to a worker at 0.7 or above (fact 12)."""


class RecorderServer(AgentServer):
    """An ``AgentServer`` that checks disk and server before it takes rooms, and reports its rooms as its load."""

    def __init__(
        self,
        settings: Settings,
        problem: ConfigError | None,
        prewarm: Callable[[JobProcess], None],
    ) -> None:
        """
        Args:
            problem: what is wrong with the settings; :meth:`run` raises it.
            prewarm: called once per process before its first room.
        """
        self.settings = settings
        self.max_rooms = settings.max_rooms or default_max_rooms()
        self.is_serving = False
        self._livekit: api.LiveKitAPI | None = None
        self._services: Services | None = None
        self.recorders: dict[str, tuple[asyncio.AbstractEventLoop, RoomRecorder]] = {}
        """By job id: a room's recorder, and the event loop on which it must be called."""
        self.joins = JoinQueue(JOINS_AT_ONCE)
        self.overload = Overload(self.report_load)
        self._being_taken: dict[str, str] = {}
        """Rooms that were accepted and whose jobs have not started: room sid by job id."""
        self.problem = problem
        super().__init__(
            ws_url=settings.livekit_url,
            api_key=settings.livekit_api_key,
            api_secret=settings.livekit_api_secret,
            host="127.0.0.1",  # the framework's health answers name rooms: worker.health replaces them
            port=0,
            permissions=least_permissions(settings),
            job_executor_type=JobExecutorType.THREAD,
            num_idle_processes=1,
            load_fnc=_load,
            load_threshold=float("inf"),  # request() decides which rooms are taken (fact 12b)
            max_retry=sys.maxsize,
            setup_fnc=prewarm,
            log_level=settings.log_level,
        )

    async def run(self, *, devmode: bool = False, unregistered: bool = False) -> None:
        """Checks settings, disk and server, then serves until closed.

        Raises:
            RecorderError: the operator must act.
        """
        if self.problem is not None:
            raise self.problem
        prepare_output_dir(Path(self.settings.output_dir))
        # Importing the ONNX model registers its plugin, which only the main thread may do; rooms are threads.
        load_detector(self.settings.vad_runtime)
        services = self._services = Services(self.settings)
        async with (
            health_answer(self.settings, self.max_rooms, self.is_connected) as health_port,
            api.LiveKitAPI(
                self.settings.livekit_url, self.settings.livekit_api_key, self.settings.livekit_api_secret
            ) as livekit,
        ):
            self._livekit = livekit
            tell_port(health_port)
            await wait_for_server(livekit, self.settings)
            tasks = services.start()
            # Not earlier: a recorder that is requested while no worker can take the room never comes.
            self.once("worker_registered", lambda *_: tasks.extend(self._on_registered(livekit, health_port)))
            try:
                self.is_serving = True
                await super().run(devmode=devmode, unregistered=unregistered)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await services.aclose()

    def _on_registered(self, livekit: api.LiveKitAPI, health_port: int) -> list[asyncio.Task[None]]:
        """Starts the reconciler, and closes the framework's health port."""
        self._log_ready(health_port)
        assert self._http_server is not None
        reconciler = Reconciler(
            livekit,
            self.settings,
            self.is_recording,
            self.rooms_taken,
            self.rooms_joining,
            self.has_capacity,
        )
        return [
            asyncio.create_task(self._http_server.aclose(), name="framework's health"),
            supervised(OrphanWatch(self.settings, reconciler.replace).run, "watch over dead recorders"),
            supervised(reconciler.run, "reconciler"),
            supervised(self.overload.run, "watch over late audio"),
        ]

    def session_over(self, folder: str, room_sid: str, ended_at: datetime) -> None:
        """A session that a recorder of this worker was in is over, and everything is saved. On any thread."""
        if self._services is not None:
            self._services.sessions.over(folder, room_sid, ended_at)

    def is_connected(self) -> bool:
        """Whether the server can reach this worker now."""
        return self.is_serving and not self._connecting

    def is_recording(self, room_sid: str) -> bool:
        """Whether a recorder of this worker is in the room, or is joining it."""
        return room_sid in self._rooms_by_job().values()

    def rooms_taken(self) -> int:
        """The number of rooms that this worker records or has accepted."""
        return len(self._rooms_by_job())

    def rooms_joining(self) -> int:
        """The number of rooms that this worker has accepted and whose recorders have not joined yet."""
        return self.joins.joining + len(self._being_taken)

    def has_capacity(self) -> bool:
        """Whether another room may be taken."""
        return not self.draining and not self.overload.is_late and self.rooms_taken() < self.max_rooms

    def why_full(self) -> str:
        """Why no further room is taken."""
        if self.overload.is_late:
            return "Full: audio is processed late"
        return f"Full with {self.max_rooms} rooms (MAX_ROOMS)"

    async def report_load(self) -> None:
        """Tells the server the load at once, so that it offers the next room to a worker with less of it. Otherwise
        the framework does so every 2.5 s."""
        self._worker_load = _load(self)
        await self._update_worker_status()

    @contextlib.contextmanager
    def taking(self, job_id: str, room_sid: str) -> Iterator[None]:
        """Counts a room as taken from now until its job starts: ten may be offered before the first job has started."""
        self._being_taken[job_id] = room_sid
        try:
            yield
        finally:
            del self._being_taken[job_id]

    async def stop_taking_rooms(self) -> None:
        """Closes every open segment, so that it is saved; then takes no new rooms, and reports that to the server."""
        for loop, recorder in list(self.recorders.values()):
            with contextlib.suppress(RuntimeError):  # that room has just ended
                loop.call_soon_threadsafe(recorder.cut)
        self._draining = True
        with contextlib.suppress(Exception):  # the server may be unreachable
            await self._update_worker_status()

    async def hand_over(self) -> None:
        """Requests recorders of other workers for all rooms, and waits for them."""
        assert self._livekit is not None
        await hand_over(self._livekit, self.settings, lambda: [job.job.room.name for job in self.active_jobs])

    async def _handle_termination(self, termination: agent.JobTermination) -> None:
        """Ignores the message: a job ends when its recorder has left the room.

        When one recorder replaces another of the same identity, the server ought to end the old one's job, but sends
        the id of the new one's job (1.13.3 keeps jobs by identity). That would leave the room without a recorder.
        """

    async def rooms_over(self) -> None:
        """Waits until all rooms have ended by themselves."""
        while self._rooms_by_job():  # noqa: ASYNC110  (the framework has no event for it)
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    def _rooms_by_job(self) -> dict[str, str]:
        return {**self._being_taken, **{job.job.id: job.job.room.sid for job in self.active_jobs}}

    def _log_ready(self, health_port: int) -> None:
        logger.info(
            "Registered with %s, ready for up to %d rooms, health on http://%s:%d/",
            self.settings.livekit_url,
            self.max_rooms,
            self.settings.health_host,
            health_port,
        )


def least_permissions(settings: Settings) -> WorkerPermissions:
    """The permissions that the recorder needs in a room: to subscribe, to answer pings and send captions, and, unless
    it is hidden, to list in its attributes whom it records.
    """
    return WorkerPermissions(
        can_publish=False,
        can_subscribe=True,
        can_publish_data=True,
        can_update_metadata=not settings.hidden,
        hidden=settings.hidden,
    )


def _load(worker: AgentServer) -> float:
    """The load that is reported to the server: by rooms, not by the host's CPU (fact 12). 1: no further room fits.

    A room that is joining counts twice, as it takes more of the machine: the server prefers workers of lower load.
    """
    assert isinstance(worker, RecorderServer)
    rooms = min(worker.rooms_taken() + worker.rooms_joining(), worker.max_rooms)
    return FULL_LOAD if not worker.has_capacity() else MAX_LOAD_WITH_CAPACITY * rooms / worker.max_rooms
