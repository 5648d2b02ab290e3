"""Each event of the native client wakes the room that it belongs to, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest
from livekit.rtc._ffi_client import FfiClient
from livekit.rtc._proto.ffi_pb2 import FfiEvent, FfiRequest, FfiResponse
from livekit.rtc._utils import Queue

from recording.event_routing import RoutedEvents, narrow, route_events


class Client:
    """The library's client, as far as events are concerned. ``answer`` is what the next request returns."""

    def __init__(self) -> None:
        self._queue: object = None
        self.answer = FfiResponse()

    def request(self, _: FfiRequest) -> FfiResponse:
        return self.answer


class Room:
    """An event loop, and what has arrived on it."""

    def __init__(self, client: FfiClient) -> None:
        self.client = client
        self.loop = asyncio.new_event_loop()
        self.queue: Queue[FfiEvent] = client._queue.subscribe(self.loop)

    def ask(self, answer: FfiResponse) -> None:
        """Makes a request on its event loop."""

        async def request() -> None:
            self.client.answer = answer  # type: ignore[attr-defined]
            self.client.request(FfiRequest())

        self.loop.run_until_complete(request())

    def arrived(self) -> list[str | None]:
        """The kinds of events that have arrived since the last call."""
        self.loop.run_until_complete(asyncio.sleep(0))
        kinds: list[str | None] = []
        while not self.queue.empty():
            kinds.append(self.queue.get_nowait().WhichOneof("message"))
        return kinds


@pytest.fixture
def client() -> FfiClient:
    client = cast("FfiClient", Client())
    route_events(client)
    return client


@pytest.fixture
def rooms(client: FfiClient) -> Iterator[tuple[Room, Room]]:
    one, two = Room(client), Room(client)
    yield one, two
    one.loop.close()
    two.loop.close()


def connecting(request_id: int) -> FfiResponse:
    response = FfiResponse()
    response.connect.async_id = request_id
    return response


def connected(request_id: int, room: int, participant: int) -> FfiEvent:
    event = FfiEvent()
    event.connect.async_id = request_id
    event.connect.result.room.handle.id = room
    event.connect.result.local_participant.handle.id = participant
    return event


def statistics(request_id: int) -> tuple[FfiResponse, FfiEvent]:
    response, event = FfiResponse(), FfiEvent()
    response.get_stats.async_id = request_id
    event.get_stats.async_id = request_id
    return response, event


def of_room(handle: int) -> FfiEvent:
    event = FfiEvent()
    event.room_event.room_handle = handle
    return event


def call_of(participant: int) -> FfiEvent:
    event = FfiEvent()
    event.rpc_method_invocation.local_participant_handle = participant
    return event


def frame_of(stream: int, *, is_last: bool = False) -> FfiEvent:
    event = FfiEvent()
    event.audio_stream_event.stream_handle = stream
    if is_last:
        event.audio_stream_event.eos.SetInParent()
    return event


def test_an_answer_reaches_the_room_that_asked(client: FfiClient, rooms: tuple[Room, Room]) -> None:
    one, two = rooms
    response, answer = statistics(7)
    one.ask(response)
    client._queue.put(answer)
    assert (one.arrived(), two.arrived()) == (["get_stats"], [])


def test_what_happens_in_a_room_reaches_that_room(client: FfiClient, rooms: tuple[Room, Room]) -> None:
    one, two = rooms
    for room, number in ((one, 10), (two, 20)):
        room.ask(connecting(number))
        client._queue.put(connected(number, number + 1, number + 2))
    assert (one.arrived(), two.arrived()) == (["connect"], ["connect"])
    client._queue.put(of_room(11))
    client._queue.put(call_of(22))
    assert (one.arrived(), two.arrived()) == (["room_event"], ["rpc_method_invocation"])


def test_frames_reach_the_room_that_has_opened_the_stream(
    client: FfiClient, rooms: tuple[Room, Room]
) -> None:
    one, two = rooms
    opened = FfiResponse()
    opened.new_audio_stream.stream.handle.id = 5
    two.ask(opened)
    for frame in (frame_of(5), frame_of(5, is_last=True)):
        client._queue.put(frame)
    assert (one.arrived(), two.arrived()) == ([], ["audio_stream_event"] * 2)


def test_an_event_whose_room_is_not_known_reaches_all(client: FfiClient, rooms: tuple[Room, Room]) -> None:
    client._queue.put(of_room(99))
    client._queue.put(FfiEvent())
    assert [room.arrived() for room in rooms] == [["room_event", None]] * 2


def test_an_answer_that_is_quicker_than_the_call_reaches_the_room_that_asked(
    client: FfiClient, rooms: tuple[Room, Room]
) -> None:
    response, answer = statistics(7)
    client._queue.put(answer)
    rooms[0].ask(response)
    assert "get_stats" in rooms[0].arrived()


def test_a_subscription_gets_what_its_filter_wants(client: FfiClient, rooms: tuple[Room, Room]) -> None:
    one, two = rooms
    narrow(client, one.queue, lambda event: event.room_event.room_handle == 2)
    for handle in (1, 2):
        client._queue.put(of_room(handle))
    assert (one.arrived(), two.arrived()) == (["room_event"], ["room_event"] * 2)


def test_a_room_that_is_over_holds_up_no_other_and_leaves_nothing_behind(
    client: FfiClient, rooms: tuple[Room, Room]
) -> None:
    one, two = rooms
    one.ask(connecting(1))
    client._queue.put(connected(1, 2, 3))
    one.loop.close()
    client._queue.put(FfiEvent())
    assert two.arrived() == [None]
    client._queue.unsubscribe(one.queue)
    client._queue.unsubscribe(one.queue)  # the library does it twice
    events = cast("RoutedEvents", client._queue)
    assert not events._owners
    assert list(events._subscribers_by_loop) == [two.loop]


def test_routing_twice_changes_nothing(client: FfiClient, rooms: tuple[Room, Room]) -> None:
    route_events(client)
    client._queue.put(FfiEvent())
    assert [room.arrived() for room in rooms] == [[None]] * 2
