"""The state of one track while its room is recorded, and the table of its transitions.

Pure: :func:`transition` takes a state and an event, and returns the next state and the actions to take.
:mod:`recording.tracks` carries them out. A track whose participant is not recorded has no state.

A gap is a time in which a track may have carried speech that was not received. The event at which it begins opens it,
the event at which it ends closes it. So no gap is open in RECEIVING, and one is always open in SILENT, UNDECRYPTABLE,
NO_KEY, WAITING_FOR_PLACE and PAUSED.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from core.records import EndReason, GapReason


class TrackState(Enum):
    """How far a track is on the way from its publication to its recording."""

    NEW = "new"
    """Published; whether it is recorded has not been decided yet."""
    NO_KEY = "no key"
    """Encrypted, and no passphrase is set: no subscription is requested."""
    WAITING_FOR_PLACE = "waiting for place"
    """More tracks are published than may be recorded at once: no subscription is requested until a place is free."""
    PAUSED = "paused"
    """The recording of the room is paused: no subscription is requested until it is resumed."""
    REQUESTED = "requested"
    """The subscription is requested; the server has not delivered the track yet."""
    REQUESTED_AGAIN = "requested again"
    """The server has ended the subscription, and it is requested again. If the publisher does not permit it, the server
    delivers the track as soon as it is permitted."""
    SUBSCRIBED = "subscribed"
    """The server has delivered the track; no packet has arrived yet."""
    RECEIVING = "receiving"
    """Packets arrive, or the publisher is muted."""
    SILENT = "silent"
    """Packets no longer arrive, although the publisher is not muted."""
    UNDECRYPTABLE = "undecryptable"
    """Packets arrive and cannot be decrypted."""
    NOT_RECEIVED = "not received"
    """It is to be recorded, but no subscription is requested now: the last one failed or has ended."""
    GONE = "gone"
    """No longer published. It is kept for a moment, or until the recorder has reconnected, as it may come back."""
    ENDED = "ended"
    """The recorder has left the room. This state does not change any more."""


STREAMING = frozenset(
    {TrackState.SUBSCRIBED, TrackState.RECEIVING, TrackState.SILENT, TrackState.UNDECRYPTABLE}
)
"""The states in which a stream is open and recorded."""

PENDING = frozenset({TrackState.REQUESTED, TrackState.REQUESTED_AGAIN})
"""The states in which a subscription is requested, and the track has not been delivered."""

NOT_REQUESTED = frozenset(
    {
        TrackState.NEW,
        TrackState.NO_KEY,
        TrackState.WAITING_FOR_PLACE,
        TrackState.PAUSED,
        TrackState.NOT_RECEIVED,
        TrackState.GONE,
    }
)
"""The states in which no subscription is requested, and one may be."""


class TrackEvent(Enum):
    """What may happen to a track."""

    # The decision whether it is recorded.
    ADMITTED = "admitted"
    """It is to be recorded, and has a place."""
    NO_PLACE = "no place"
    NO_KEY = "no key"
    PAUSED = "paused"
    """It is to be recorded, and the recording of the room is paused."""
    REFUSED = "refused"
    """Its participant is not recorded."""

    # The subscription.
    ARRIVED = "arrived"
    """The server has delivered the track."""
    ARRIVED_LATE = "arrived late"
    """So late that it may have brought speech meanwhile."""
    ARRIVED_AGAIN = "arrived again"
    """A moment after its last subscription ended: it may have brought speech meanwhile."""
    ARRIVED_PREEXISTING = "arrived preexisting"
    """The same, and the track was published before the recorder joined."""
    OVERDUE = "overdue"
    """It was asked for long ago, and has not come or brings nothing."""
    SUBSCRIPTION_FAILED = "subscription failed"
    SUBSCRIPTION_ENDED = "subscription ended"
    """The server has ended the subscription, for which the SDK has no event."""
    UNSUBSCRIBED = "unsubscribed"
    UNSUBSCRIBED_WHILE_RECONNECTING = "unsubscribed while reconnecting"
    """The same while the recorder's own connection is broken."""
    STILL_PUBLISHED = "still published"
    """Its subscription ended a moment ago, and it has not been unpublished since."""
    UNPUBLISHED = "unpublished"
    UNPUBLISHED_WHILE_RECONNECTING = "unpublished while reconnecting"

    # Packets and frames.
    FIRST_PACKET = "first packet"
    PACKETS_STOPPED = "packets stopped"
    PACKETS_RESUMED = "packets resumed"
    NO_FRAMES = "no frames"
    """Its jitter buffer delivers no frames, not even silence."""
    DECRYPTION_FAILED = "decryption failed"
    DECRYPTION_RECOVERED = "decryption recovered"

    # The recorder's own connection.
    CONNECTION_LOST = "connection lost"
    """Sent to a recently gone track: the recorder's connection broke, and that is why the track went."""
    RECONNECTED = "reconnected"
    """Sent to a track that is published and to be recorded, but has no stream."""
    LEFT = "left"
    """The recorder leaves the room, and the track has no open gap."""
    LEFT_WITH_GAP = "left with gap"


class Action(Enum):
    """What :mod:`recording.tracks` does at a transition, in the order given there."""

    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    RETRY = "retry"
    """Decide after a second whether the track is recorded, and subscribe again if so."""
    START = "start"
    """Open its stream and record it."""
    CLOSE_GAP = "close gap"
    """End the open gap, if there is one, and write it to disk."""
    REMEMBER = "remember"
    """Note that it went now: if the recorder's connection turns out to be the reason, that is a gap."""
    KEEP_PROGRESS = "keep progress"
    """Keep until when it was received, for the handover note."""
    FREE_PLACE = "free place"
    FORGET = "forget"
    """Drop the track, unless REMEMBER applies to it."""


@dataclass(frozen=True)
class OpenGap:
    """An action: opens a gap that begins at the time given with the event. An open gap is left as it is."""

    reason: GapReason
    replaces: bool = False
    """Whether an open gap with another reason is closed first."""


@dataclass(frozen=True)
class Stop:
    """An action: closes the stream at once. What was received is saved in the background, with this end reason."""

    reason: EndReason


Step = Action | OpenGap | Stop


@dataclass(frozen=True)
class Transition:
    """The result of an event: the next state, and the actions in order."""

    state: TrackState
    actions: tuple[Step, ...] = ()


def transition(state: TrackState, event: TrackEvent) -> Transition:
    """Returns the next state and the actions. An event that is not in the table for a state changes nothing."""
    return _TABLE.get((state, event), Transition(state))


_Row = tuple[Iterable[TrackState], TrackEvent, TrackState, tuple[Step, ...]]


def _rows_of_requests() -> Iterator[_Row]:
    """Of what is requested, arrives, and ends."""
    s, e, a = TrackState, TrackEvent, Action
    not_received = OpenGap(GapReason.NO_FRAMES)
    reconnect = OpenGap(GapReason.RECONNECT)
    over_bound = OpenGap(GapReason.OVER_BOUND, replaces=True)
    undecryptable = OpenGap(GapReason.ENCRYPTED, replaces=True)
    paused = OpenGap(GapReason.PAUSED, replaces=True)
    ended, forbidden = OpenGap(GapReason.UNSUBSCRIBED), OpenGap(GapReason.FORBIDDEN)
    dropped = (a.CLOSE_GAP, a.FREE_PLACE)
    unpublished = Stop(EndReason.UNPUBLISHED)

    yield NOT_REQUESTED - {s.PAUSED}, e.ADMITTED, s.REQUESTED, (a.SUBSCRIBE,)
    # What is lost after the pause has another reason.
    yield {s.PAUSED}, e.ADMITTED, s.REQUESTED, (a.CLOSE_GAP, a.SUBSCRIBE)
    yield NOT_REQUESTED - {s.WAITING_FOR_PLACE}, e.NO_PLACE, s.WAITING_FOR_PLACE, (over_bound,)
    yield NOT_REQUESTED - {s.PAUSED}, e.NO_KEY, s.NO_KEY, (OpenGap(GapReason.ENCRYPTED),)
    yield {s.PAUSED}, e.NO_KEY, s.NO_KEY, (undecryptable,)
    yield NOT_REQUESTED - {s.PAUSED}, e.PAUSED, s.PAUSED, (paused,)
    yield PENDING, e.PAUSED, s.PAUSED, (paused, a.UNSUBSCRIBE)
    yield STREAMING, e.PAUSED, s.PAUSED, (paused, a.UNSUBSCRIBE, Stop(EndReason.RECORDING_PAUSED))
    yield STREAMING - {s.UNDECRYPTABLE}, e.NO_KEY, s.UNDECRYPTABLE, (OpenGap(GapReason.ENCRYPTED),)
    yield NOT_REQUESTED, e.REFUSED, s.GONE, (*dropped, a.FORGET)
    yield PENDING, e.REFUSED, s.GONE, (*dropped, a.UNSUBSCRIBE, a.FORGET)
    yield STREAMING, e.REFUSED, s.GONE, (*dropped, a.UNSUBSCRIBE, Stop(EndReason.ROLE_LOST), a.FORGET)

    for arrival, gap in (
        (e.ARRIVED, ()),
        (e.ARRIVED_LATE, (not_received,)),
        (e.ARRIVED_AGAIN, (ended,)),
        (e.ARRIVED_PREEXISTING, (OpenGap(GapReason.NO_RECORDER),)),
    ):
        yield NOT_REQUESTED | PENDING, arrival, s.SUBSCRIBED, (*gap, a.START)
        yield STREAMING, arrival, s.SUBSCRIBED, (unpublished, a.START)
    yield {s.REQUESTED}, e.OVERDUE, s.NOT_RECEIVED, (forbidden, a.UNSUBSCRIBE, a.RETRY)
    yield {s.REQUESTED_AGAIN}, e.OVERDUE, s.REQUESTED_AGAIN, (forbidden, a.SUBSCRIBE)
    # The server may have ended the subscription before there were statistics that could disappear.
    yield {s.SUBSCRIBED}, e.OVERDUE, s.SUBSCRIBED, (a.SUBSCRIBE,)
    yield {s.SILENT}, e.OVERDUE, s.SILENT, (a.SUBSCRIBE,)
    yield PENDING | {s.NOT_RECEIVED}, e.SUBSCRIPTION_FAILED, s.NOT_RECEIVED, (not_received, a.RETRY)
    yield STREAMING, e.SUBSCRIPTION_ENDED, s.REQUESTED_AGAIN, (a.REMEMBER, unpublished, a.SUBSCRIBE)

    yield {s.REQUESTED}, e.UNSUBSCRIBED, s.NOT_RECEIVED, ()
    yield {s.REQUESTED}, e.UNSUBSCRIBED_WHILE_RECONNECTING, s.NOT_RECEIVED, ()
    yield STREAMING, e.UNSUBSCRIBED, s.NOT_RECEIVED, (a.REMEMBER, unpublished)
    yield STREAMING, e.UNSUBSCRIBED_WHILE_RECONNECTING, s.NOT_RECEIVED, (reconnect, unpublished)
    yield {s.NOT_RECEIVED}, e.STILL_PUBLISHED, s.NOT_RECEIVED, (ended, a.RETRY)
    yield {s.REQUESTED}, e.STILL_PUBLISHED, s.REQUESTED, (ended,)
    yield {s.REQUESTED_AGAIN}, e.STILL_PUBLISHED, s.REQUESTED_AGAIN, (forbidden,)
    yield NOT_REQUESTED | PENDING, e.UNPUBLISHED, s.GONE, (*dropped, a.FORGET)
    yield STREAMING, e.UNPUBLISHED, s.GONE, (a.REMEMBER, unpublished, *dropped, a.FORGET)
    yield NOT_REQUESTED | PENDING, e.UNPUBLISHED_WHILE_RECONNECTING, s.GONE, ()
    yield STREAMING, e.UNPUBLISHED_WHILE_RECONNECTING, s.GONE, (reconnect, unpublished)


def _rows_of_reception() -> Iterator[_Row]:
    """Of packets, decryption, the recorder's own connection, and its end."""
    s, e, a = TrackState, TrackEvent, Action
    not_received, reconnect = OpenGap(GapReason.NO_FRAMES), OpenGap(GapReason.RECONNECT)
    undecryptable = OpenGap(GapReason.ENCRYPTED, replaces=True)
    unpublished, left_room = Stop(EndReason.UNPUBLISHED), Stop(EndReason.SHUTDOWN)

    yield {s.SUBSCRIBED}, e.FIRST_PACKET, s.RECEIVING, (a.CLOSE_GAP,)
    yield {s.SUBSCRIBED}, e.PACKETS_STOPPED, s.SUBSCRIBED, (OpenGap(GapReason.NO_MEDIA),)
    yield {s.RECEIVING}, e.PACKETS_STOPPED, s.SILENT, (OpenGap(GapReason.NO_MEDIA),)
    yield {s.SILENT}, e.PACKETS_RESUMED, s.RECEIVING, (a.CLOSE_GAP,)
    yield STREAMING, e.NO_FRAMES, s.NOT_RECEIVED, (not_received, unpublished, a.UNSUBSCRIBE, a.RETRY)
    yield STREAMING - {s.UNDECRYPTABLE}, e.DECRYPTION_FAILED, s.UNDECRYPTABLE, (undecryptable,)
    yield STREAMING, e.DECRYPTION_RECOVERED, s.RECEIVING, (a.CLOSE_GAP,)

    for state in NOT_REQUESTED | PENDING:
        yield {state}, e.CONNECTION_LOST, state, (reconnect,)
    for state in (s.NO_KEY, s.WAITING_FOR_PLACE, s.PAUSED):
        yield {state}, e.RECONNECTED, state, (reconnect,)
    yield PENDING | {s.NEW, s.NOT_RECEIVED, s.GONE}, e.RECONNECTED, s.NOT_RECEIVED, (reconnect,)

    yield STREAMING, e.LEFT, s.ENDED, (a.KEEP_PROGRESS, left_room)
    yield STREAMING, e.LEFT_WITH_GAP, s.ENDED, (a.CLOSE_GAP, left_room, a.FORGET)
    yield NOT_REQUESTED | PENDING, e.LEFT_WITH_GAP, s.ENDED, (a.CLOSE_GAP, a.FORGET)


_TABLE = {
    (state, event): Transition(after, actions)
    for states, event, after, actions in (*_rows_of_requests(), *_rows_of_reception())
    for state in states
}
