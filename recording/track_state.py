"""The state of one track while its room is recorded, and the rules by which it changes.

Pure: :func:`transition` takes a state and an event and returns the next state and what is to be done. Who does it is
:mod:`recording.tracks`. A track whose participant is not recorded has no state: nothing of it is kept.

Time in which a track may have spoken and was not received is a gap. A gap is opened by the event that begins it and
closed by the one that ends it, so in RECEIVING none is open, and in SILENT, UNDECIPHERABLE, NO_KEY and
WAITING_FOR_PLACE one always is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from core.records import EndReason, GapReason


class TrackState(Enum):
    """Where a track is on its way to the disk."""

    NEW = "new"
    """Published; nothing has been decided about it yet."""
    NO_KEY = "no key"
    """Encrypted, and there is no passphrase: not asked for."""
    WAITING_FOR_PLACE = "waiting for place"
    """More is published than may be recorded at once: not asked for until a place is free."""
    WANTED = "wanted"
    """Asked for; the server has not brought it yet."""
    SUBSCRIBED = "subscribed"
    """The server has brought it; no packet has come yet."""
    RECEIVING = "receiving"
    """Packets come in, or the publisher is muted."""
    SILENT = "silent"
    """Packets came in and do not any more, although the publisher is not muted."""
    UNDECIPHERABLE = "undecipherable"
    """Packets come in and cannot be deciphered."""
    NOT_RECEIVED = "not received"
    """To be recorded and not asked for just now: it was in vain, or the subscription has ended."""
    GONE = "gone"
    """No longer published. It is remembered for a moment, or until the connection is back: it may come again."""
    ENDED = "ended"
    """We have left the room. Nothing changes any more."""


LISTENING = frozenset(
    {TrackState.SUBSCRIBED, TrackState.RECEIVING, TrackState.SILENT, TrackState.UNDECIPHERABLE}
)
"""The states in which a stream is open and is recorded."""

NOT_ASKED_FOR = frozenset(
    {
        TrackState.NEW,
        TrackState.NO_KEY,
        TrackState.WAITING_FOR_PLACE,
        TrackState.NOT_RECEIVED,
        TrackState.GONE,
    }
)


class TrackEvent(Enum):
    """What may happen to a track."""

    # What is decided about it.
    ADMITTED = "admitted"
    """It is to be recorded, and has a place."""
    NO_PLACE = "no place"
    NO_KEY = "no key"
    REFUSED = "refused"
    """Its participant is not recorded."""

    # The subscription.
    ARRIVED = "arrived"
    """The server has brought it."""
    ARRIVED_LATE = "arrived late"
    """So late, or so long after its last subscription, that it may have brought speech meanwhile."""
    ARRIVED_FROM_BEFORE = "arrived from before"
    """It was published before we came."""
    OVERDUE = "overdue"
    """It was asked for long ago, and has not come or brings nothing."""
    SUBSCRIPTION_FAILED = "subscription failed"
    UNSUBSCRIBED = "unsubscribed"
    UNSUBSCRIBED_AWAY = "unsubscribed while away"
    """The same while our own connection is being made anew."""
    STILL_PUBLISHED = "still published"
    """Its subscription ended a moment ago, and it has not been unpublished since."""
    UNPUBLISHED = "unpublished"
    UNPUBLISHED_AWAY = "unpublished while away"

    # What comes in.
    FIRST_PACKET = "first packet"
    PACKETS_STOPPED = "packets stopped"
    PACKETS_BACK = "packets back"
    NO_FRAMES = "no frames"
    """Not even silence comes out of its jitter buffer."""
    CANNOT_DECIPHER = "cannot decipher"
    CAN_DECIPHER = "can decipher"

    # Our own connection.
    CONNECTION_LOST = "connection lost"
    """Of a track that has gone a moment ago: this is why."""
    CONNECTION_BACK = "connection back"
    """Of a track that is published, wanted, and not listened to."""
    LEFT = "left"
    """We leave the room; no gap is open."""
    LEFT_WITH_GAP = "left with gap"


class Action(Enum):
    """What is to be done, in the order given."""

    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    ASK_AGAIN = "ask again"
    """In a second, by way of the decision whether it is to be recorded."""
    START = "start"
    """Open its stream and record it."""
    CLOSE_GAP = "close gap"
    """If one is open, it ends now and is written down."""
    REMEMBER = "remember"
    """It has gone a moment ago: should our connection turn out to be the reason, that is a gap."""
    KEEP_PROGRESS = "keep progress"
    """Until when it was received is still needed for the handover note."""
    FREE_PLACE = "free place"
    FORGET = "forget"
    """Drop the track, unless it is remembered for a moment."""


@dataclass(frozen=True)
class OpenGap:
    """An action: from the moment that came with the event on, speech may be missing. An open gap stays as it is."""

    reason: GapReason
    replaces: bool = False
    """An open gap of another reason ends now, and this one follows it."""


@dataclass(frozen=True)
class Stop:
    """An action: close the stream at once. What was received is saved in the background, and ended for this reason."""

    reason: EndReason


Step = Action | OpenGap | Stop


@dataclass(frozen=True)
class Transition:
    """What an event brings about."""

    state: TrackState
    actions: tuple[Step, ...] = ()


def transition(state: TrackState, event: TrackEvent) -> Transition:
    """The next state and what is to be done. An event that means nothing in a state changes nothing."""
    return _TABLE.get((state, event), Transition(state))


_Row = tuple[Iterable[TrackState], TrackEvent, TrackState, tuple[Step, ...]]


def _rows() -> Iterator[_Row]:
    s, e, a = TrackState, TrackEvent, Action
    not_received = OpenGap(GapReason.NO_FRAMES)
    reconnect = OpenGap(GapReason.RECONNECT)
    over_bound = OpenGap(GapReason.OVER_BOUND, replaces=True)
    undecipherable = OpenGap(GapReason.ENCRYPTED, replaces=True)
    asked_in_vain = (not_received, a.UNSUBSCRIBE, a.ASK_AGAIN)
    dropped = (a.CLOSE_GAP, a.FREE_PLACE)
    unpublished, left_room = Stop(EndReason.UNPUBLISHED), Stop(EndReason.SHUTDOWN)

    yield NOT_ASKED_FOR, e.ADMITTED, s.WANTED, (a.SUBSCRIBE,)
    yield NOT_ASKED_FOR - {s.WAITING_FOR_PLACE}, e.NO_PLACE, s.WAITING_FOR_PLACE, (over_bound,)
    yield NOT_ASKED_FOR, e.NO_KEY, s.NO_KEY, (OpenGap(GapReason.ENCRYPTED),)
    yield LISTENING - {s.UNDECIPHERABLE}, e.NO_KEY, s.UNDECIPHERABLE, (OpenGap(GapReason.ENCRYPTED),)
    yield NOT_ASKED_FOR, e.REFUSED, s.GONE, (*dropped, a.FORGET)
    yield {s.WANTED}, e.REFUSED, s.GONE, (*dropped, a.UNSUBSCRIBE, a.FORGET)
    yield LISTENING, e.REFUSED, s.GONE, (*dropped, a.UNSUBSCRIBE, Stop(EndReason.ROLE_LOST), a.FORGET)

    for arrival, gap in (
        (e.ARRIVED, ()),
        (e.ARRIVED_LATE, (not_received,)),
        (e.ARRIVED_FROM_BEFORE, (OpenGap(GapReason.NO_RECORDER),)),
    ):
        yield {*NOT_ASKED_FOR, s.WANTED}, arrival, s.SUBSCRIBED, (*gap, a.START)
        yield LISTENING, arrival, s.SUBSCRIBED, (unpublished, a.START)
    yield {s.WANTED}, e.OVERDUE, s.NOT_RECEIVED, asked_in_vain
    # Whoever administrates the room may have ended the subscription: the SDK does not say so.
    yield {s.SUBSCRIBED}, e.OVERDUE, s.SUBSCRIBED, (a.SUBSCRIBE,)
    yield {s.SILENT}, e.OVERDUE, s.SILENT, (a.SUBSCRIBE,)
    yield {s.WANTED, s.NOT_RECEIVED}, e.SUBSCRIPTION_FAILED, s.NOT_RECEIVED, (not_received, a.ASK_AGAIN)

    yield {s.WANTED}, e.UNSUBSCRIBED, s.NOT_RECEIVED, ()
    yield {s.WANTED}, e.UNSUBSCRIBED_AWAY, s.NOT_RECEIVED, ()
    yield LISTENING, e.UNSUBSCRIBED, s.NOT_RECEIVED, (a.REMEMBER, unpublished)
    yield LISTENING, e.UNSUBSCRIBED_AWAY, s.NOT_RECEIVED, (reconnect, unpublished)
    yield {s.NOT_RECEIVED}, e.STILL_PUBLISHED, s.NOT_RECEIVED, (not_received, a.ASK_AGAIN)
    yield {s.WANTED}, e.STILL_PUBLISHED, s.WANTED, (not_received,)
    yield {*NOT_ASKED_FOR, s.WANTED}, e.UNPUBLISHED, s.GONE, (*dropped, a.FORGET)
    yield LISTENING, e.UNPUBLISHED, s.GONE, (a.REMEMBER, unpublished, *dropped, a.FORGET)
    yield {*NOT_ASKED_FOR, s.WANTED}, e.UNPUBLISHED_AWAY, s.GONE, ()
    yield LISTENING, e.UNPUBLISHED_AWAY, s.GONE, (reconnect, unpublished)

    yield {s.SUBSCRIBED}, e.FIRST_PACKET, s.RECEIVING, (a.CLOSE_GAP,)
    yield {s.SUBSCRIBED}, e.PACKETS_STOPPED, s.SUBSCRIBED, (OpenGap(GapReason.NO_MEDIA),)
    yield {s.RECEIVING}, e.PACKETS_STOPPED, s.SILENT, (OpenGap(GapReason.NO_MEDIA),)
    yield {s.SILENT}, e.PACKETS_BACK, s.RECEIVING, (a.CLOSE_GAP,)
    yield LISTENING, e.NO_FRAMES, s.NOT_RECEIVED, (not_received, unpublished, a.UNSUBSCRIBE, a.ASK_AGAIN)
    yield LISTENING - {s.UNDECIPHERABLE}, e.CANNOT_DECIPHER, s.UNDECIPHERABLE, (undecipherable,)
    yield LISTENING, e.CAN_DECIPHER, s.RECEIVING, (a.CLOSE_GAP,)

    for state in (*NOT_ASKED_FOR, s.WANTED):
        yield {state}, e.CONNECTION_LOST, state, (reconnect,)
    for state in (s.NO_KEY, s.WAITING_FOR_PLACE):
        yield {state}, e.CONNECTION_BACK, state, (reconnect,)
    yield {s.NEW, s.WANTED, s.NOT_RECEIVED, s.GONE}, e.CONNECTION_BACK, s.NOT_RECEIVED, (reconnect,)

    yield LISTENING, e.LEFT, s.ENDED, (a.KEEP_PROGRESS, left_room)
    yield LISTENING, e.LEFT_WITH_GAP, s.ENDED, (a.CLOSE_GAP, left_room, a.FORGET)
    yield {*NOT_ASKED_FOR, s.WANTED}, e.LEFT_WITH_GAP, s.ENDED, (a.CLOSE_GAP, a.FORGET)


_TABLE = {
    (state, event): Transition(after, actions)
    for states, event, after, actions in _rows()
    for state in states
}
