"""How long this process stalled while a microphone of devtools/speakers.py was fed."""

from __future__ import annotations

seconds: list[float] = []
"""The length of each gap that listeners heard. Emptied before each test (tests/support/stalls.py)."""
