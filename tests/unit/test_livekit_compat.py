"""What the worker does not load of the framework, and what it keeps the framework from doing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent

WORKER = """
import agent
import sys
import livekit_compat
for name, module in sorted(sys.modules.items()):
    if getattr(module, "__file__", None) and any(f"{name}.".startswith(f"{one}.") for one in livekit_compat.UNUSED):
        print("loaded:", name)
"""

CLOUD_JOB = """
import agent
import logging
from types import SimpleNamespace
from livekit.agents import JobContext
info = SimpleNamespace(fake_job=False, url="wss://a.livekit." + "cloud", job=SimpleNamespace(enable_recording=True))
handlers = list(logging.getLogger().handlers)
JobContext._start_log_buffering(SimpleNamespace(_info=info))
JobContext._prepare_telemetry(SimpleNamespace(_info=info))
assert logging.getLogger().handlers == handlers
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the placeholders stay for as long as their process."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_worker_loads_nothing_that_it_does_not_use() -> None:
    done = run(WORKER)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_project_that_collects_the_logs_of_its_agents_gets_none() -> None:
    done = run(CLOUD_JOB)
    assert (done.returncode, done.stderr) == (0, "")


START = """
import agent
import sys
agent.asyncio.run = lambda serving: serving.close() or 0
assert agent.start() == 0
print(sys.getswitchinterval() <= 0.001)
"""


def test_the_native_client_does_not_wait_long_for_the_interpreter() -> None:
    done = run(START)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


GOOGLE = """
import agent
import sys
loaded = sorted(set(agent.livekit_compat.UNUSED_BY_FRAMEWORK) & set(sys.modules))
assert not loaded, loaded
from google.auth.transport.requests import Request
import cryptography, pydantic
session = Request().session
assert (session.close(), pydantic.BaseModel.__module__) == (None, "pydantic.main")
"""


def test_libraries_that_are_imported_later_get_the_real_packages() -> None:
    """Vertex AI gets its tokens with the package that uploads the framework's traces."""
    done = run(GOOGLE)
    assert (done.returncode, done.stderr) == (0, "")
