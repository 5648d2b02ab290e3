"""A recorder to be killed: ``python writer.py`` reads ``write FOLDER FIRST`` or ``hold FOLDER FIRST`` from stdin.

For each line it forks a process that writes segments of known sound into the folder, one after another (``write``), or
leaves one half written (``hold``), until it is killed. It reports on stdout, line by line:
``pid N``, ``safe INDEX SAMPLES`` when that much of a segment is on disk, ``saved INDEX``, and ``dead`` in the end.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from pathlib import Path

from core.records import Pcm
from devtools.sample_room import ANNA, CLOCK, noise, open_room, segment_of
from storage import RoomFolder

STRIDE = 160_000
"""From the beginning of one segment to that of the next, in samples."""

LIFETIME_SECONDS = 30


def sound_of(index: int) -> Pcm:
    return noise(random.Random(index).randrange(500, 4_000), seed=index)


def write(folder: RoomFolder, index: int) -> None:
    pcm, start = sound_of(index), index * STRIDE
    part = folder.begin(ANNA, CLOCK, start, start)
    say(f"safe {index} 0")
    for first in range(0, len(pcm) - 999, 1_000):
        part.append(pcm[first : first + 1_000])
        say(f"safe {index} {first + 1_000}")
    part.commit(segment_of(pcm, start))
    say(f"saved {index}")


def hold(folder: RoomFolder, index: int) -> None:
    start = index * STRIDE
    part = folder.begin(ANNA, CLOCK, start, start)
    part.append(sound_of(index)[:500])
    say(f"safe {index} 500")
    time.sleep(LIFETIME_SECONDS)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def live(command: str, output_dir: Path, first: int) -> None:
    """What a writer does until it is killed; it ends by itself after LIFETIME_SECONDS."""
    say(f"pid {os.getpid()}")
    folder, end = open_room(output_dir), time.monotonic() + LIFETIME_SECONDS
    for index in itertools.count(first):
        if time.monotonic() > end:
            break
        (write if command == "write" else hold)(folder, index)


def main() -> None:
    for line in sys.stdin:
        command, output_dir, first = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            try:
                live(command, Path(output_dir), int(first))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        say("dead")


if __name__ == "__main__":
    main()
