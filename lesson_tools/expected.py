"""What should be done with every segment, by the settings: for the commands that tell what is not done."""

from __future__ import annotations

from archive.session_counts import Expected
from config import Settings
from delivery.targets import names_of_targets
from lesson_tools.console import tell


def expected_of(settings: Settings) -> Expected:
    """What the settings want; says what is wrong with those of the targets."""
    return Expected.from_settings(settings, names_of_targets(settings, tell))
