"""What tests share: stand-ins, readers of folders, and programs to run."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
"""The project's folder."""
