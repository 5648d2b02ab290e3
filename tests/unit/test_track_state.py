"""What may happen to a track, as pictures: the event, the state after it, and what is done."""

from __future__ import annotations

import re

import pytest

from core.records import GapReason
from recording.track_state import STREAMING, Action, OpenGap, Step, Stop, TrackEvent, TrackState, transition

STORIES = """
a teacher publishes, speaks, and leaves
    admitted                          requested           subscribe
    arrived                           subscribed          start
    first packet                      receiving           close gap
    unsubscribed                      not received        remember, stop: unpublished
    unpublished                       gone                close gap, free place, forget

a track that was published before the recorder joined
    admitted                          requested           subscribe
    arrived preexisting               subscribed          gap: no_recorder, start
    first packet                      receiving           close gap
    left                              ended               keep progress, stop: shutdown

a server that delivers late
    admitted                          requested           subscribe
    arrived late                      subscribed          gap: deaf, start
    first packet                      receiving           close gap

a track that arrives only after the second request
    admitted                          requested           subscribe
    overdue                           not received        gap: forbidden, unsubscribe, retry
    unsubscribed                      not received
    admitted                          requested           subscribe
    arrived                           subscribed          start
    first packet                      receiving           close gap

a subscription that fails and succeeds on the next attempt
    admitted                          requested           subscribe
    subscription failed               not received        gap: deaf, retry
    admitted                          requested           subscribe
    arrived                           subscribed          start

a track that delivers no frames, not even silence
    (receiving)
    no frames                         not received        gap: deaf, stop: unpublished, unsubscribe, retry
    admitted                          requested           subscribe
    arrived                           subscribed          start
    first packet                      receiving           close gap

a subscription that ends, of a track that is still published
    (receiving)
    unsubscribed                      not received        remember, stop: unpublished
    still published                   not received        gap: unsubscribed, retry
    admitted                          requested           subscribe
    arrived                           subscribed          start
    first packet                      receiving           close gap

and that is asked for again before that is noticed
    (receiving)
    unsubscribed                      not received        remember, stop: unpublished
    admitted                          requested           subscribe
    still published                   requested           gap: unsubscribed
    arrived                           subscribed          start
    first packet                      receiving           close gap

a publisher whose network goes away for a while
    (receiving)
    packets stopped                   silent              gap: no_media
    packets stopped                   silent
    overdue                           silent              subscribe
    packets resumed                   receiving           close gap

a subscription that the server has ended
    (receiving)
    subscription ended                requested again     remember, stop: unpublished, subscribe
    unsubscribed                      requested again
    arrived again                     subscribed          gap: unsubscribed, start
    first packet                      receiving           close gap

a publisher who forbids the subscription for a while
    (receiving)
    subscription ended                requested again     remember, stop: unpublished, subscribe
    still published                   requested again     gap: forbidden
    overdue                           requested again     gap: forbidden, subscribe
    admitted                          requested again
    arrived                           subscribed          start
    first packet                      receiving           close gap

a publisher who forbids the subscription and unpublishes
    (receiving)
    subscription ended                requested again     remember, stop: unpublished, subscribe
    unpublished                       gone                close gap, free place, forget

a track that is unpublished just after its statistics have disappeared, as the recorder's connection breaks
    (receiving)
    subscription ended                requested again     remember, stop: unpublished, subscribe
    connection lost                   requested again     gap: reconnect
    reconnected                       not received        gap: reconnect
    admitted                          requested           subscribe

a subscription that ends before there were statistics
    (subscribed)
    packets stopped                   subscribed          gap: no_media
    overdue                           subscribed          subscribe
    unsubscribed                      not received        remember, stop: unpublished
    arrived again                     subscribed          gap: unsubscribed, start

a network that is away before the first packet
    (subscribed)
    packets stopped                   subscribed          gap: no_media
    packets resumed                   subscribed
    first packet                      receiving           close gap

a publisher that uses another passphrase
    (receiving)
    decryption failed                 undecryptable       gap instead: encrypted
    decryption failed                 undecryptable
    packets stopped                   undecryptable
    first packet                      undecryptable
    decryption recovered              receiving           close gap

an encrypted track without a passphrase
    no key                            no key              gap: encrypted
    unpublished                       gone                close gap, free place, forget

a track beyond the bound
    no place                          waiting for place   gap instead: over_bound
    no place                          waiting for place
    admitted                          requested           subscribe
    arrived                           subscribed          start
    first packet                      receiving           close gap

the recorder's connection breaks, and the track goes before that is reported
    (receiving)
    unsubscribed                      not received        remember, stop: unpublished
    unpublished                       gone                close gap, free place, forget
    connection lost                   gone                gap: reconnect
    admitted                          requested           subscribe
    arrived                           subscribed          start
    first packet                      receiving           close gap

the recorder's connection breaks, and that is reported first
    (receiving)
    unsubscribed while reconnecting   not received        gap: reconnect, stop: unpublished
    unpublished while reconnecting    gone
    reconnected                       not received        gap: reconnect
    admitted                          requested           subscribe
    arrived                           subscribed          start
    first packet                      receiving           close gap

the recorder's connection breaks, and the teacher does not come back
    (receiving)
    unsubscribed while reconnecting   not received        gap: reconnect, stop: unpublished
    unpublished while reconnecting    gone
    unpublished                       gone                close gap, free place, forget

a subscription requested while the connection breaks
    (requested)
    reconnected                       not received        gap: reconnect
    admitted                          requested           subscribe

a track published while the recorder was reconnecting
    reconnected                       not received        gap: reconnect
    admitted                          requested           subscribe

a teacher who becomes a student while recorded
    (receiving)
    refused                           gone                close gap, free place, unsubscribe, stop: role_lost, forget

a teacher who becomes a student while the subscription is requested
    (requested)
    refused                           gone                close gap, free place, unsubscribe, forget

a teacher who becomes a student while waiting for a place
    (waiting for place)
    refused                           gone                close gap, free place, forget

the recorder leaves while no packets arrive
    (silent)
    left with gap                     ended               close gap, stop: shutdown, forget
    admitted                          ended
    arrived                           ended
    refused                           ended
    unpublished                       ended

a lesson that is paused and resumed
    (receiving)
    paused                            paused              gap instead: paused, unsubscribe, stop: recording_paused
    unsubscribed                      paused
    paused                            paused
    admitted                          requested           close gap, subscribe
    arrived                           subscribed          start
    first packet                      receiving           close gap

a lesson that is resumed, and a server that delivers late
    (paused)
    admitted                          requested           close gap, subscribe
    arrived late                      subscribed          gap: deaf, start
    first packet                      receiving           close gap

a lesson that is resumed, and a publisher who forbids the subscription
    (paused)
    admitted                          requested           close gap, subscribe
    overdue                           not received        gap: forbidden, unsubscribe, retry

a lesson that is paused before a track is delivered
    (requested)
    paused                            paused              gap instead: paused, unsubscribe
    reconnected                       paused              gap: reconnect
    no key                            no key              gap instead: encrypted
    paused                            paused              gap instead: paused
    no place                          waiting for place   gap instead: over_bound
    paused                            paused              gap instead: paused
    refused                           gone                close gap, free place, forget

a track that is delivered twice
    (receiving)
    arrived                           subscribed          stop: unpublished, start
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
        event, after, actions = line[4:38].strip(), line[38:58].strip(), line[58:].strip()
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
        assert is_open is (state in STREAMING), state
        if state in (TrackState.RECEIVING, TrackState.ENDED):
            assert gap is None, state
        if state in (
            TrackState.SILENT,
            TrackState.UNDECRYPTABLE,
            TrackState.NO_KEY,
            TrackState.WAITING_FOR_PLACE,
            TrackState.PAUSED,
        ):
            assert gap is not None, state


def test_every_state_can_be_reached_and_left() -> None:
    assert {state for state, _, _ in everything_that_may_be()} == set(TrackState)
    for state in TrackState:
        is_left = any(transition(state, event).state is not state for event in TrackEvent)
        assert is_left is (state is not TrackState.ENDED)
