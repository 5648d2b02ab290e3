"""Whether anything of a track arrives.

Its frames do not tell: where nothing arrives any more, the jitter buffer goes on delivering, a hundred frames of
silence a second. So the client is asked for the packets that it has received. A publisher sends some even of silence, a
few a second; only one that is muted sends none.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from livekit import rtc

LOST_SECONDS = 2.0
"""So long without a packet, and it is no bad luck any more. Of silence a client may send as few as two a second."""


class Reception:
    """One track's packets. Ask once a second: a question costs 0.7 ms of CPU."""

    def __init__(
        self,
        track: rtc.Track,
        publication: rtc.TrackPublication,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._track = track
        self._publication = publication
        self._clock = clock
        self._packets = -1
        self._asked_at = self._came_at = clock()
        self.lost_since = self._asked_at
        """From when on packets may be missing (monotonic clock): nobody knows when the last one came, but that it was
        after this."""

    async def is_lost(self) -> bool:
        """Whether packets should come in and do not. Raises what the client says when it cannot tell."""
        packets = await self._received()
        before, self._asked_at = self._asked_at, self._clock()
        if self._publication.muted or packets != self._packets:
            self._packets, self._came_at, self.lost_since = packets, self._asked_at, before
        return self._asked_at - self._came_at >= LOST_SECONDS

    async def _received(self) -> int:
        """Packets so far; 0 before the first."""
        reports = await self._track.get_stats()
        return sum(
            report.inbound_rtp.received.packets_received
            for report in reports
            if report.WhichOneof("stats") == "inbound_rtp"
        )
