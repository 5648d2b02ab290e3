"""What should be done with every segment, by the settings: for `lessons.py list` and `check`."""

from __future__ import annotations

from dataclasses import dataclass

from config import Settings
from delivery.targets import names_of_targets
from lesson_tools.console import tell


@dataclass(frozen=True)
class Expected:
    """What a room's folder should have besides the WAVs."""

    texts: bool = False
    """SAVE_TRANSLATIONS, CAPTIONS: every segment has a text. A room that has texts should have all of them anyway."""
    languages: tuple[str, ...] = ()
    """TARGET_LANGUAGES, as BCP 47 tags."""
    targets: tuple[str, ...] = ()
    """Where everything should have been delivered, by the targets' names."""
    audio: bool = True
    """SAVE_AUDIO: the sound is kept and delivered, too."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Expected:
        targets = names_of_targets(settings, tell)
        return cls(settings.wants_text, settings.target_languages, targets, settings.save_audio)
