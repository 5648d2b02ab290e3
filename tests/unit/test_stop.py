"""Signals and hanging work at the worker's end."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from support import ROOT

pytestmark = pytest.mark.slow

SIGNALS = """
import asyncio, os, signal, sys
from worker.stop import StopRequest, stop_on_signals

async def main():
    stop = StopRequest()
    stop_on_signals(asyncio.get_running_loop(), stop)
    for name in sys.argv[1:]:
        signal.raise_signal(getattr(signal, name))
    await stop.requested.wait()

asyncio.run(main())
os._exit(7)
"""

HANGING = """
import asyncio, os, time
from core.threads import ImpatientPool

async def main():
    asyncio.get_running_loop().set_default_executor(ImpatientPool())
    asyncio.create_task(asyncio.to_thread(time.sleep, 60))
    await asyncio.to_thread(time.sleep, 0.1)

asyncio.run(main())
os._exit(7)
"""


def run(program: str, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, timeout=50).returncode


@pytest.mark.skipif(sys.platform == "win32", reason="its signals end the process")
@pytest.mark.parametrize(
    ("signals", "code"),
    [(("SIGTERM",), 7), (("SIGINT", "SIGTERM"), 7), (("SIGTERM", "SIGTERM"), 1), (("SIGINT", "SIGINT"), 1)],
)
def test_what_the_terminal_and_its_program_both_send_is_one_signal(
    signals: tuple[str, ...], code: int
) -> None:
    assert run(SIGNALS, *signals) == code


def test_work_that_hangs_does_not_hold_up_the_end() -> None:
    began = time.monotonic()
    assert run(HANGING) == 7
    assert time.monotonic() - began < 50
