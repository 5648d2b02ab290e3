"""What may happen to a track, as pictures: the event, the state after it, and what is done."""

from __future__ import annotations

import re

import pytest

from core.records import GapReason
from recording.track_state import LISTENING, Action, OpenGap, Step, Stop, TrackEvent, TrackState, transition

STORIES = """
a teacher publishes, speaks, and leaves
    admitted                wanted              subscribe
    arrived                 subscribed          start
    first packet            receiving           close gap
    unsubscribed            not received        remember, stop: unpublished
    unpublished             gone                close gap, free place, forget

a lesson that had begun before us
    admitted                wanted              subscribe
    arrived from before     subscribed          gap: no_recorder, start
    first packet            receiving           close gap
    left                    ended               keep progress, stop: shutdown

a server that is slow
    admitted                wanted              subscribe
    arrived late            subscribed          gap: deaf, start
    first packet            receiving           close gap

a track that does not come until it is asked for anew
    admitted                wanted              subscribe
    overdue                 not received        gap: deaf, unsubscribe, ask again
    unsubscribed            not received
    admitted                wanted              subscribe
    arrived                 subscribed          start
    first packet            receiving           close gap

a server that refuses a subscription for a while
    admitted                wanted              subscribe
    subscription failed     not received        gap: deaf, ask again
    admitted                wanted              subscribe
    arrived                 subscribed          start

a track that brings not even silence
    (receiving)
    no frames               not received        gap: deaf, stop: unpublished, unsubscribe, ask again
    admitted                wanted              subscribe
    arrived                 subscribed          start
    first packet            receiving           close gap

a subscription that ends, of a track that is still published
    (receiving)
    unsubscribed            not received        remember, stop: unpublished
    still published         not received        gap: deaf, ask again
    admitted                wanted              subscribe
    arrived                 subscribed          start
    first packet            receiving           close gap

and that is asked for again before that is noticed
    (receiving)
    unsubscribed            not received        remember, stop: unpublished
    admitted                wanted              subscribe
    still published         wanted              gap: deaf
    arrived                 subscribed          start
    first packet            receiving           close gap

a publisher whose network goes away for a while
    (receiving)
    packets stopped         silent              gap: no_media
    packets stopped         silent
    overdue                 silent              subscribe
    packets back            receiving           close gap

a subscription that somebody else has ended, which the SDK does not say
    (receiving)
    packets stopped         silent              gap: no_media
    overdue                 silent              subscribe
    unsubscribed            not received        remember, stop: unpublished
    arrived late            subscribed          gap: deaf, start
    first packet            receiving           close gap

a network that is away before the first packet
    (subscribed)
    packets stopped         subscribed          gap: no_media
    packets back            subscribed
    first packet            receiving           close gap

another passphrase
    (receiving)
    cannot decipher         undecipherable      gap instead: encrypted
    cannot decipher         undecipherable
    packets stopped         undecipherable
    first packet            undecipherable
    can decipher            receiving           close gap

no passphrase
    no key                  no key              gap: encrypted
    unpublished             gone                close gap, free place, forget

one teacher too many
    no place                waiting for place   gap instead: over_bound
    no place                waiting for place
    admitted                wanted              subscribe
    arrived                 subscribed          start
    first packet            receiving           close gap

our connection breaks, and the track has gone before we know that
    (receiving)
    unsubscribed            not received        remember, stop: unpublished
    unpublished             gone                close gap, free place, forget
    connection lost         gone                gap: reconnect
    admitted                wanted              subscribe
    arrived                 subscribed          start
    first packet            receiving           close gap

our connection breaks, and we know it first
    (receiving)
    unsubscribed while away not received        gap: reconnect, stop: unpublished
    unpublished while away  gone
    connection back         not received        gap: reconnect
    admitted                wanted              subscribe
    arrived                 subscribed          start
    first packet            receiving           close gap

our connection breaks, and the teacher does not come back
    (receiving)
    unsubscribed while away not received        gap: reconnect, stop: unpublished
    unpublished while away  gone
    unpublished             gone                close gap, free place, forget

asked for into a connection that breaks
    (wanted)
    connection back         not received        gap: reconnect
    admitted                wanted              subscribe

published while we were away
    connection back         not received        gap: reconnect
    admitted                wanted              subscribe

a teacher who becomes a student while it is recorded
    (receiving)
    refused                 gone                close gap, free place, unsubscribe, stop: role_lost, forget

and while it is asked for
    (wanted)
    refused                 gone                close gap, free place, unsubscribe, forget

and while it is not
    (waiting for place)
    refused                 gone                close gap, free place, forget

we leave what brings nothing
    (silent)
    left with gap           ended               close gap, stop: shutdown, forget
    admitted                ended
    arrived                 ended
    refused                 ended
    unpublished             ended

a track that is brought twice
    (receiving)
    arrived                 subscribed          stop: unpublished, start
"""


def in_words(step: Step) -> str:
    if isinstance(step, OpenGap):
        return f"gap{' instead' if step.replaces else ''}: {step.reason.value}"
    if isinstance(step, Stop):
        return f"stop: {step.reason.value}"
    return step.value


def stories() -> list[tuple[str, list[str]]]:
    told = [story.splitlines() for story in STORIES.strip().split("\n\n")]
    return [(title, lines) for title, *lines in told]


@pytest.mark.parametrize(("title", "lines"), stories(), ids=[title for title, _ in stories()])
def test_a_track(title: str, lines: list[str]) -> None:
    state = TrackState.NEW
    for line in lines:
        if begins := re.fullmatch(r"\s+\((.+)\)", line):
            state = TrackState(begins[1])
            continue
        event, after, actions = line[4:28].strip(), line[28:48].strip(), line[48:].strip()
        change = transition(state, TrackEvent(event))
        told = ", ".join(map(in_words, change.actions))
        assert (change.state.value, told) == (after, actions), f"{state.value}, {event}"
        state = change.state


Seen = tuple[TrackState, GapReason | None, bool]
"""A state, the gap that is open, and whether a stream is."""


def after(seen: Seen, event: TrackEvent) -> Seen:
    """What the actions make of it."""
    state, gap, is_open = seen
    change = transition(state, event)
    for step in change.actions:
        if isinstance(step, OpenGap):
            gap = step.reason if gap is None or step.replaces else gap
        elif isinstance(step, Stop):
            assert is_open, f"{event} in {state} closes a stream that is not open"
            is_open = False
        elif step is Action.START:
            assert not is_open, f"{event} in {state} opens a second stream"
            is_open = True
        elif step is Action.CLOSE_GAP:
            gap = None
    return change.state, gap, is_open


def everything_that_may_be() -> set[Seen]:
    found: set[Seen] = {(TrackState.NEW, None, False)}
    waiting = list(found)
    while waiting:
        seen = waiting.pop()
        impossible = TrackEvent.LEFT if seen[1] else TrackEvent.LEFT_WITH_GAP
        for event in TrackEvent:
            follows = after(seen, event)
            if event is not impossible and follows not in found:
                found.add(follows)
                waiting.append(follows)
    return found


def test_whatever_happens_what_is_not_received_is_a_gap_and_what_is_received_is_none() -> None:
    for state, gap, is_open in everything_that_may_be():
        assert is_open is (state in LISTENING), state
        if state in (TrackState.RECEIVING, TrackState.ENDED):
            assert gap is None, state
        if state in (
            TrackState.SILENT,
            TrackState.UNDECIPHERABLE,
            TrackState.NO_KEY,
            TrackState.WAITING_FOR_PLACE,
        ):
            assert gap is not None, state


def test_every_state_can_be_reached_and_left() -> None:
    assert {state for state, _, _ in everything_that_may_be()} == set(TrackState)
    for state in TrackState:
        is_left = any(transition(state, event).state is not state for event in TrackEvent)
        assert is_left is (state is not TrackState.ENDED)
