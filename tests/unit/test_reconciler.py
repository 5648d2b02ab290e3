"""Which rooms the reconciler sends a recorder to, tested against a fake server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from livekit import api
from livekit.protocol import agent, models
from livekit.protocol.agent import JobState

from archive.handover_note import HandoverNote
from config import Settings
from core.records import utc_now
from devtools.room_folders import STUDENT, TEACHER, until
from recording import recorder_ping
from worker import reconciler as worker_reconciler
from worker.reconciler import Reconciler, is_wanted


@dataclass
class Room:
    people: dict[str, str] = field(default_factory=lambda: {"anna": TEACHER})
    """Metadata by identity."""
    recorder: str | None = None
    """Its sid."""
    answer: str | None = recorder_ping.ALIVE
    """None: none comes."""
    created: float = 1.0
    dispatches: list[api.AgentDispatch] = field(default_factory=list)
    takes: bool = True
    """Whether a worker accepts what is dispatched."""
    ended: bool = False


@dataclass
class Server:
    """The part of LiveKit's API that the reconciler uses."""

    rooms: dict[str, Room]
    asked_for: list[str] = field(default_factory=list)
    can_ask: bool = True
    called: int = 0
    """How often a recorder has been."""

    def __post_init__(self) -> None:
        self.room = self.agent_dispatch = self._client = self

    async def list_rooms(self, _: object) -> object:
        rooms = [
            models.Room(sid=f"RM_{name}", name=name, creation_time=int(room.created), num_participants=1)
            for name, room in self.rooms.items()
        ]
        return SimpleNamespace(rooms=rooms)

    async def get_participant(self, who: api.RoomParticipantIdentity) -> object:
        if self.rooms[who.room].recorder is None:
            raise not_found()
        return SimpleNamespace(sid=self.rooms[who.room].recorder)

    async def list_participants(self, request: api.ListParticipantsRequest) -> object:
        if self.rooms[request.room].ended:
            raise not_found()
        people = self.rooms[request.room].people.items()
        return SimpleNamespace(
            participants=[
                models.ParticipantInfo(identity=one, sid=f"PA_{one}", metadata=data) for one, data in people
            ]
        )

    async def remove_participant(self, who: api.RoomParticipantIdentity) -> None:
        if self.rooms[who.room].recorder is None:
            raise not_found()
        self.rooms[who.room].recorder = None

    def _auth_header(self, _: object) -> dict[str, str]:
        return {}

    async def request(self, _: str, __: str, request: Any, *___: object) -> object:
        room = self.rooms[request.room]
        self.called += 1
        if not self.can_ask:
            raise api.TwirpError("bad_route", "no handler for path", status=404)
        if room.recorder is None:
            raise api.TwirpError(api.TwirpErrorCode.UNAVAILABLE, "no response from servers", status=503)
        if room.answer is None:
            raise api.TwirpError(
                "canceled", "twirp error unknown: RpcError 1502: Response timeout", status=408
            )
        return SimpleNamespace(payload=room.answer)

    async def list_dispatch(self, room: str) -> list[api.AgentDispatch]:
        return list(self.rooms[room].dispatches)

    async def create_dispatch(self, request: api.CreateAgentDispatchRequest) -> None:
        self.asked_for.append(request.room)
        dispatch = api.AgentDispatch(id=f"AD_{len(self.asked_for)}")
        if self.rooms[request.room].takes:
            dispatch.state.jobs.add(state=JobState(status=agent.JS_PENDING))
        self.rooms[request.room].dispatches.append(dispatch)


def not_found() -> api.TwirpError:
    return api.TwirpError(api.TwirpErrorCode.NOT_FOUND, "it does not exist", status=404)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(worker_reconciler, "CAUTION_SECONDS", (0.01, 0.03))
    yield


def reconciler(
    server: Server,
    *,
    here: frozenset[str] = frozenset(),
    joining: int = 0,
    full: bool = False,
    **settings: Any,
) -> Reconciler:
    return Reconciler(
        server,  # type: ignore[arg-type]
        Settings(**settings),
        is_recorded_here=lambda sid: sid in here,
        rooms_taken=lambda: len(here),
        rooms_joining=lambda: joining,
        has_capacity=lambda: not full,
    )


async def one_round(*reconcilers: Reconciler) -> None:
    for one in reconcilers:
        await one.round()
    await until(lambda: not any(one._looks for one in reconcilers), "all has been looked at")


async def test_a_room_with_a_teacher_and_no_recorder_gets_one() -> None:
    server = Server({"lesson": Room(), "study": Room({"sam": STUDENT}), "empty": Room({})})
    await one_round(reconciler(server))
    assert server.asked_for == ["lesson"]


@pytest.mark.parametrize(
    ("age", "joining", "asked_for"),
    [(1, 0, []), (5, 0, ["lesson"]), (5, 3, []), (60, 3, ["lesson"]), (-3_600, 0, ["lesson"])],
    ids=["new", "not new", "many open together", "old", "clock behind"],
)
async def test_a_new_room_may_have_its_first_recorder_on_the_way(
    age: float, joining: int, asked_for: list[str]
) -> None:
    server = Server({"lesson": Room(created=time.time() - age)})
    await one_round(reconciler(server, joining=joining))
    assert server.asked_for == asked_for


async def test_a_recorder_that_answers_is_left_alone() -> None:
    server = Server({"lesson": Room(recorder="PA_1")})
    await one_round(reconciler(server))
    assert not server.asked_for
    assert server.rooms["lesson"].recorder == "PA_1"


@pytest.mark.parametrize("answer", [None, recorder_ping.NO_FRAMES], ids=["no answer", "no frames"])
async def test_a_recorder_that_does_not_answer_or_receive_is_replaced(answer: str | None) -> None:
    server = Server({"lesson": Room(recorder="PA_1", answer=answer)})
    await one_round(reconciler(server))
    assert server.asked_for == ["lesson"]
    assert server.rooms["lesson"].recorder is None, "it has been removed first"


async def test_a_server_that_cannot_ask_is_believed() -> None:
    server = Server({"lesson": Room(recorder="PA_1"), "other": Room()}, can_ask=False)
    await one_round(reconciler(server))
    assert server.asked_for == ["other"]


async def test_several_workers_that_find_a_room_ask_once() -> None:
    """Dead or missing: the other workers see the first request."""
    server = Server({"dead": Room(recorder="PA_1", answer=None), "missing": Room()})
    await one_round(*(reconciler(server) for _ in range(8)))
    assert server.asked_for.count("dead") == 1
    assert server.asked_for.count("missing") <= 2, "two may look at the very same moment"


async def test_whom_has_been_asked_for_is_waited_for() -> None:
    server = Server({"lesson": Room()})
    patient = reconciler(server)
    await one_round(patient)
    await one_round(patient)
    assert server.asked_for == ["lesson"]


async def test_what_no_worker_has_accepted_is_asked_for_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server asks one worker; it may be the one that hangs."""
    server = Server({"accepted": Room(), "not accepted": Room(takes=False)})
    of_the_dead = api.AgentDispatch(id="AD_dead")
    of_the_dead.state.jobs.add(state=JobState(status=agent.JS_RUNNING))
    server.rooms["not accepted"].dispatches.append(of_the_dead)
    looking = reconciler(server)
    await one_round(looking)
    monkeypatch.setattr(worker_reconciler, "UNANSWERED_SECONDS", 0.0)
    called = server.called
    await one_round(looking)
    assert sorted(server.asked_for) == ["accepted", "not accepted", "not accepted"]
    assert server.called == called, "where nobody is, nobody is called: it takes 3 s"
    server.rooms["accepted"].dispatches[0].state.jobs[0].state.status = agent.JS_FAILED
    await one_round(looking)
    assert server.asked_for.count("accepted") == 2, "it was on its way, and has not come"


async def test_who_is_on_its_way_for_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({"lesson": Room()})
    looking = reconciler(server)
    await one_round(looking)
    for name in ("UNANSWERED_SECONDS", "MAX_JOIN_SECONDS"):
        monkeypatch.setattr(worker_reconciler, name, 0.0)
    await one_round(looking)
    assert server.asked_for == ["lesson"] * 2


async def test_a_full_worker_requests_no_recorders_and_skips_its_own_rooms() -> None:
    server = Server({"lesson": Room()})
    await one_round(reconciler(server, full=True), reconciler(server, here=frozenset({"RM_lesson"})))
    assert not server.asked_for


async def test_only_rooms_that_the_filter_lets_through_are_looked_at() -> None:
    server = Server({"class-7": Room(), "staff": Room()})
    await one_round(reconciler(server, room_filter=("class-*",)))
    assert server.asked_for == ["class-7"]


def dispatch_of(name: str) -> api.AgentDispatch:
    return api.AgentDispatch(id=f"AD_{name}", agent_name=name)


@pytest.mark.parametrize("recorder", [None, "PA_dead"], ids=["without a recorder", "with a killed recorder"])
async def test_with_an_agent_name_only_rooms_that_asked_for_it_are_touched(recorder: str | None) -> None:
    server = Server(
        {
            "asked": Room(
                recorder=recorder, answer=None, dispatches=[dispatch_of(""), dispatch_of("scribe")]
            ),
            "nobody": Room(recorder=recorder, answer=None),
            "any": Room(recorder=recorder, answer=None, dispatches=[dispatch_of("")]),
            "another": Room(recorder=recorder, answer=None, dispatches=[dispatch_of("Scribe")]),
        }
    )
    await one_round(reconciler(server, agent_name="scribe"))
    assert server.asked_for == ["asked"]
    for name in ("nobody", "any", "another"):
        assert server.rooms[name].recorder == recorder, "another worker's recorder is not removed"


@pytest.mark.parametrize(("name", "asked_for"), [("scribe", ["lesson"]), ("assistant", [])])
async def test_a_dead_recorder_is_replaced_only_in_a_room_that_requested_the_agent(
    name: str, asked_for: list[str]
) -> None:
    server = Server({"lesson": Room(recorder="PA_dead", dispatches=[dispatch_of(name)])})
    dead = HandoverNote("RM_lesson", utc_now(), room_name="lesson", recorder_sid="PA_dead")
    assert await reconciler(server, agent_name="scribe").replace(dead) is bool(asked_for)
    assert server.asked_for == asked_for


async def test_without_an_agent_name_every_room_is_recorded_whomever_it_asked_for() -> None:
    server = Server({"lesson": Room(dispatches=[dispatch_of("assistant")])})
    await one_round(reconciler(server))
    assert server.asked_for == ["lesson"]


async def test_a_room_that_no_server_answers_for_is_not_adopted(caplog: pytest.LogCaptureFixture) -> None:
    class Moving(Server):
        async def list_dispatch(self, room: str) -> list[api.AgentDispatch]:
            raise api.TwirpError(api.TwirpErrorCode.UNAVAILABLE, "no response from servers", status=503)

    server = Moving({"lesson": Room()})
    await one_round(reconciler(server, agent_name="scribe"))
    assert not server.asked_for and not caplog.records


async def test_a_room_that_ends_meanwhile_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    server = Server({"lesson": Room(), "ended": Room()})
    looking = reconciler(server)
    await looking._list_rooms()
    looking._list_again_at = float("inf")
    server.rooms["ended"].ended = True
    await one_round(looking)
    assert server.asked_for == ["lesson"]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


async def test_a_server_that_fails_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Server):
        async def list_rooms(self, _: object) -> object:
            raise api.TwirpError("internal", "out of order", status=500)

    running = asyncio.create_task(reconciler(Failing({}), reconcile_seconds=0.01).run())
    await asyncio.sleep(0.2)
    running.cancel()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "out of order" in line


async def test_a_crowd_of_rooms_is_looked_at_a_part_at_a_time_those_not_seen_first() -> None:
    server = Server({f"room-{number}": Room(recorder="PA_1") for number in range(50)})
    looking = reconciler(server)
    await one_round(looking)
    assert len(looking._seen) == worker_reconciler.MIN_LOOKS
    await one_round(looking)
    assert len(looking._seen) == 2 * worker_reconciler.MIN_LOOKS


@pytest.mark.parametrize(
    ("room", "patterns", "wanted"),
    [
        ("anything", (), True),
        ("class-7b", ("class-*",), True),
        ("Class-7b", ("class-*",), False),
        ("exam1", ("class-*", "exam?"), True),
        ("exam12", ("class-*", "exam?"), False),
    ],
)
def test_room_filter(room: str, patterns: tuple[str, ...], wanted: bool) -> None:
    assert is_wanted(room, patterns) is wanted


# --- a recorder that is known to have died ---


def dead(name: str, recorder: str = "PA_dead") -> HandoverNote:
    return HandoverNote(f"RM_{name}", utc_now(), room_name=name, recorder_sid=recorder)


@pytest.mark.parametrize("listed", ["PA_dead", None])
async def test_the_successor_of_a_dead_recorder_is_asked_for_at_once_and_once(listed: str | None) -> None:
    server = Server({"a": Room(recorder=listed, answer=None)})
    worker = reconciler(server)
    assert await worker.replace(dead("a"))
    assert (server.asked_for, server.called) == (["a"], 0), "it is not pinged"
    await one_round(worker)
    assert server.asked_for == ["a"]


@pytest.mark.parametrize(
    "room",
    [
        Room(recorder="PA_new"),
        Room(people={"sam": STUDENT}),
        Room(people={}),
    ],
    ids=["another has taken over", "nobody to be recorded", "empty"],
)
async def test_a_room_that_needs_no_successor_gets_none(room: Room) -> None:
    server = Server({"a": room})
    assert await reconciler(server).replace(dead("a")) is None, "but it may need one later"
    assert server.asked_for == []


async def test_a_full_worker_asks_for_no_successor_now() -> None:
    server = Server({"a": Room()})
    assert await reconciler(server, full=True).replace(dead("a")) is None


async def test_another_session_of_the_room_is_not_the_dead_recorder_s() -> None:
    server = Server({"a": Room()})
    note = replace(dead("a"), room_sid="RM_before")
    assert await reconciler(server).replace(note) is False
    assert await reconciler(server).replace(dead("over")) is False
    assert server.asked_for == []
