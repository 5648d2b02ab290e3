"""Passes each event of the native client on to the room that it belongs to.

All rooms of a process share one native client, and each has an event loop of its own. The library (livekit 1.1.21)
passes every event on to every room, which then discards those of others, and every frame of every track to each call
that waits for an answer. So the cost grows with the square of the rooms: with thirty rooms an answer wakes thirty
threads, and thirty answers a second come from the packet statistics alone.

Here an event wakes one event loop. Who owns it is known from the answers of the client: an answer belongs to the loop
that asked, and so does what it hands out: a room, a participant, a stream. An event of which that is not known goes to
all, as in the library.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from livekit.rtc._ffi_client import FfiClient, FfiQueue
from livekit.rtc._proto.ffi_pb2 import FfiEvent, FfiRequest, FfiResponse
from livekit.rtc._utils import Queue

Loop = asyncio.AbstractEventLoop
Filter = Callable[[FfiEvent], bool] | None

_EVENTS = FfiEvent.DESCRIPTOR.oneofs_by_name["message"].fields
_ANSWERS = frozenset(
    kind.name for kind in _EVENTS if kind.message_type and "async_id" in kind.message_type.fields_by_name
)
"""The kinds of events that answer a request, once."""

_HANDLES = {
    "room_event": "room_handle",
    "audio_stream_event": "stream_handle",
    "rpc_method_invocation": "local_participant_handle",
}
"""The kinds of events that name what they belong to, and the field that does."""


def route_events(client: FfiClient) -> None:
    """Makes the client pass events on by their owner. Call it before anything subscribes to its events. Idempotent."""
    if not isinstance(client._queue, RoutedEvents):
        routed = RoutedEvents()
        client.request = routed.learning(client.request)  # type: ignore[method-assign,assignment]
        client._queue = routed


def narrow(client: FfiClient, queue: Queue[FfiEvent], is_wanted: Filter) -> None:
    """Replaces the filter of a subscription. Does nothing if the client's events are not routed."""
    if isinstance(client._queue, RoutedEvents):
        client._queue.narrow(queue, is_wanted)


class RoutedEvents(FfiQueue[FfiEvent]):
    """Takes the place of the client's queue. Its ids are unique: handles and requests are counted together."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._subscribers_by_loop: dict[Loop, list[tuple[Queue[FfiEvent], Filter]]] = {}
        self._owners: dict[int, Loop] = {}
        """By handle, and by id of a request that has not been answered."""
        self._early: set[int] = set()
        """The ids of answers that came before the call that asked has returned."""

    def learning(self, request: Callable[[FfiRequest], FfiResponse]) -> Callable[[FfiRequest], FfiResponse]:
        """The client's function for requests, which from now on also notes who asked."""

        def ask(wanted: FfiRequest) -> FfiResponse:
            response = request(wanted)
            self._note(response)
            return response

        return ask

    def subscribe(self, loop: Loop | None = None, filter_fn: Filter = None) -> Queue[FfiEvent]:
        queue = Queue[FfiEvent]()
        with self._lock:
            subscribers = self._subscribers_by_loop.setdefault(loop or asyncio.get_event_loop(), [])
            subscribers.append((queue, filter_fn))
        return queue

    def unsubscribe(self, queue: Queue[FfiEvent]) -> None:
        with self._lock:
            for loop, subscribers in list(self._subscribers_by_loop.items()):
                left = [one for one in subscribers if one[0] is not queue]
                if len(left) < len(subscribers):
                    self._subscribers_by_loop[loop] = left
                    break
            else:
                return
            if not left:
                self._forget(loop)

    def narrow(self, queue: Queue[FfiEvent], is_wanted: Filter) -> None:
        """Replaces the filter of a subscription, in place: a new one could miss an event."""
        with self._lock:
            for loop, subscribers in list(self._subscribers_by_loop.items()):
                self._subscribers_by_loop[loop] = [
                    (one, is_wanted if one is queue else before) for one, before in subscribers
                ]

    def put(self, item: FfiEvent) -> None:
        """Called on threads of the client."""
        with self._lock:
            owner = self._owner(item)
            loops = list(self._subscribers_by_loop) if owner is None else [owner]
            for loop in loops:
                queues = [
                    queue
                    for queue, is_wanted in self._subscribers_by_loop.get(loop, ())
                    if is_wanted is None or is_wanted(item)
                ]
                if queues:
                    _wake(loop, queues, item)

    def _note(self, response: FfiResponse) -> None:
        """Notes to which event loop belong the answer to a request, and the stream that it has opened."""
        kind = response.WhichOneof("message")
        given = getattr(response, kind) if kind else None
        request_id = getattr(given, "async_id", 0)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        with self._lock:
            if request_id in self._early:
                self._early.discard(request_id)
            elif request_id and loop is not None:
                self._owners[request_id] = loop
            if kind == "new_audio_stream" and loop is not None:
                self._owners[response.new_audio_stream.stream.handle.id] = loop

    def _owner(self, event: FfiEvent) -> Loop | None:
        """The event loop to which an event belongs; None: that is not known."""
        kind = event.WhichOneof("message")
        if kind == "audio_stream_event" and event.audio_stream_event.HasField("eos"):
            return self._owners.pop(event.audio_stream_event.stream_handle, None)
        if kind in _HANDLES:
            return self._owners.get(getattr(getattr(event, kind), _HANDLES[kind]))
        if kind not in _ANSWERS:
            return None
        request_id = getattr(event, kind).async_id
        owner = self._owners.pop(request_id, None)
        if owner is None:
            self._early.add(request_id)
        elif event.connect.HasField("result"):
            for owned in (event.connect.result.room, event.connect.result.local_participant):
                self._owners[owned.handle.id] = owner
        return owner

    def _forget(self, loop: Loop) -> None:
        """Drops what belongs to an event loop on which nobody waits for events any more."""
        del self._subscribers_by_loop[loop]
        self._owners = {handle: owner for handle, owner in self._owners.items() if owner is not loop}


def _wake(loop: Loop, queues: Sequence[Queue[Any]], event: FfiEvent) -> None:
    def deliver() -> None:
        for queue in queues:
            queue.put_nowait(event)

    try:
        loop.call_soon_threadsafe(deliver)
    except RuntimeError:  # the loop has been closed: its room is over
        return
