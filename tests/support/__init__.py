"""What tests share: stand-ins, folders to look into, and programs to run."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
"""The project's folder."""
