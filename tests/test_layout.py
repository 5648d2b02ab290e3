"""The shape of the project: which module may know which, and that documents say what the code does."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import env_example, readme_table

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path.stem for path in ROOT.glob("*.py"))
PROGRAMS = {"agent", "dev", "lessons"}
"""May import anything, and nothing imports them."""

MAY_IMPORT: dict[str, set[str]] = {
    "segments": {"numpy"},
    "languages": set(),
    "language_names": set(),
    "doorbell": set(),
    "config": {"languages", "segments", "dotenv"},
    "roles": {"config"},
    "logs": set(),
    "capacity": {"psutil"},
    "slim": set(),
    "vitals": set(),
    "pulse": {"vitals"},
    "health": {"config", "pulse", "vitals", "aiohttp", "prometheus_client", "files"},
    "deadline": set(),
    "hearing": {"segments", "files", "jsonl", "names"},
    "timekeeping": {"segments"},
    "audio_processor": {"segments", "config", "timekeeping", "vitals", "livekit", "numpy"},
    "storage": {
        "hearing",
        "segments",
        "config",
        "numpy",
        "files",
        "jsonl",
        "manifest",
        "names",
        "recovery",
        "wav",
    },
    "outbox": {"segments", "jsonl", "outbox_file"},
    "pipeline": {
        "deadline",
        "hearing",
        "audio_processor",
        "doorbell",
        "segments",
        "config",
        "storage",
        "vitals",
        "numpy",
        "names",
    },
    "liveness": {"livekit"},
    "reception": {"livekit"},
    "encryption": {"vitals", "livekit"},
    "reconcile": {"config", "liveness", "roles", "vitals", "livekit"},
    "feed": {"segments", "outbox", "jsonl", "manifest", "names"},
    "translator": {"deadline", "languages", "segments", "config", "google", "soundfile"},
    "check": {
        "deadline",
        "audio_processor",
        "config",
        "logs",
        "segments",
        "aiohttp",
        "google",
        "livekit",
        "numpy",
        "translator",
        "files",
    },
    "texts": {
        "deadline",
        "doorbell",
        "languages",
        "segments",
        "config",
        "outbox",
        "feed",
        "translator",
        "vitals",
        "lesson_texts",
        "names",
    },
    "deliverables": {"segments"},
    "object_target": {"config", "deliverables", "segments", "obstore", "jsonl", "manifest", "names"},
    "postgres_target": {"deadline", "folding", "deliverables", "segments", "psycopg"},
    "targets": {"config", "deliverables", "object_target", "postgres_target", "segments"},
    "ledger": {"segments", "files", "jsonl"},
    "delivery": {
        "deadline",
        "config",
        "deliverables",
        "doorbell",
        "ledger",
        "outbox",
        "segments",
        "vitals",
        "jsonl",
        "lesson_texts",
        "manifest",
        "names",
    },
    "retention": {
        "config",
        "deliverables",
        "delivery",
        "ledger",
        "segments",
        "files",
        "jsonl",
        "lesson_texts",
        "manifest",
        "names",
    },
    "delivery_commands": {
        "config",
        "console",
        "deliverables",
        "delivery",
        "ledger",
        "object_target",
        "outbox",
        "postgres_target",
        "retention",
        "search_index",
        "segments",
        "targets",
        "typer",
        "files",
        "jsonl",
        "lesson_texts",
        "manifest",
    },
    "console": {"config", "logs", "rich", "typer"},
    "checking": {
        "config",
        "console",
        "ledger",
        "segments",
        "soundfile",
        "targets",
        "typer",
        "files",
        "jsonl",
        "lesson_texts",
        "manifest",
        "names",
        "recovery",
        "rooms",
        "wav",
    },
    "decoding": {"av", "numpy", "segments"},
    "importing": {
        "audio_processor",
        "config",
        "console",
        "decoding",
        "numpy",
        "pipeline",
        "segments",
        "storage",
        "files",
        "manifest",
    },
    "segmenting": {"config", "console", "importing", "segments", "typer", "files"},
    "folding": set(),
    "search_index": {
        "doorbell",
        "folding",
        "segments",
        "files",
        "jsonl",
        "lesson_texts",
        "manifest",
        "names",
        "search_rows",
    },
    "postgres_search": {"folding", "postgres_target", "psycopg", "search_index", "segments"},
    "searching": {
        "config",
        "console",
        "folding",
        "languages",
        "logs",
        "postgres_search",
        "search_index",
        "segments",
        "typer",
        "rooms",
    },
    "transcription": {
        "config",
        "console",
        "languages",
        "outbox",
        "segments",
        "texts",
        "translator",
        "lesson_texts",
        "rooms",
    },
    "batches": {
        "config",
        "console",
        "google",
        "outbox",
        "segments",
        "transcription",
        "translator",
        "files",
        "jsonl",
    },
    "leases": {"deadline", "segments"},
    "bucket": {
        "config",
        "deliverables",
        "delivery",
        "object_target",
        "obstore",
        "segments",
        "targets",
        "files",
        "names",
    },
    "bucket_transcription": {
        "batches",
        "bucket",
        "config",
        "console",
        "deliverables",
        "leases",
        "segments",
        "texts",
        "transcription",
        "translator",
        "files",
        "jsonl",
        "names",
        "rooms",
    },
    "transcribing": {
        "batches",
        "bucket",
        "bucket_transcription",
        "config",
        "console",
        "languages",
        "segments",
        "texts",
        "transcription",
        "translator",
        "typer",
        "files",
        "names",
        "rooms",
    },
    "playing": {"console", "lesson", "segments", "typer", "rooms"},
    "listing": {
        "config",
        "console",
        "ledger",
        "lesson",
        "segments",
        "targets",
        "typer",
        "jsonl",
        "lesson_texts",
        "rooms",
        "sessions",
    },
    "captions": {
        "deadline",
        "config",
        "doorbell",
        "language_names",
        "languages",
        "livekit",
        "roles",
        "segments",
        "jsonl",
        "lesson_texts",
        "names",
    },
    "subtitles": set(),
    "egress": {"segments"},
    "align": {"numpy", "segments"},
    "lesson": {"segments", "subtitles", "rooms", "sessions"},
    "webpage": {"lesson", "subtitles"},
    "exporting": {
        "align",
        "console",
        "decoding",
        "egress",
        "lesson",
        "numpy",
        "segments",
        "soundfile",
        "subtitles",
        "typer",
        "webpage",
        "files",
        "jsonl",
        "rooms",
        "sessions",
    },
    "recorder": {
        "deadline",
        "hearing",
        "audio_processor",
        "captions",
        "config",
        "encryption",
        "languages",
        "livekit",
        "liveness",
        "pipeline",
        "pulse",
        "reception",
        "roles",
        "segments",
        "vitals",
    },
    "recovery": {"config", "files", "manifest", "names", "segments", "wav"},
    "wav": {"files", "names", "segments", "soundfile"},
    "manifest": {"files", "jsonl", "names", "segments"},
    "names": {"config", "segments"},
    "files": {"names", "segments"},
    "jsonl": {"files"},
    "rooms": {"config", "files", "jsonl", "lesson_texts", "manifest", "names", "segments", "sessions"},
    "lesson_texts": {"aiofiles", "doorbell", "files", "jsonl", "manifest", "names", "segments"},
    "sessions": {"segments"},
    "outbox_file": {"files", "segments"},
    "search_rows": {"folding", "jsonl", "lesson_texts", "segments"},
}
"""Besides the standard library. Data flows one way: later modules know earlier ones, never back."""

COMMANDS = {
    "checking",
    "delivery_commands",
    "exporting",
    "listing",
    "playing",
    "searching",
    "segmenting",
    "transcribing",
}
"""The commands of lessons.py: nothing of the recorder knows them."""

ONLY_WHEN_USED = {"google", "obstore", "psycopg", "rich"}
"""Large, and not everybody needs them: imported by the function that does."""


def imports(tree: ast.AST) -> Iterator[str]:
    """The first parts of everything that is imported, wherever that stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import: the root is no package"
            yield (node.module or "").partition(".")[0]


def parsed(module: str) -> ast.Module:
    return ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))


def at_once(module: str) -> Iterator[str]:
    """What a module imports when it is imported itself."""
    for node in parsed(module).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imports(node)


def test_every_module_has_its_place() -> None:
    assert set(MODULES) == PROGRAMS | MAY_IMPORT.keys(), "the table of imports names other modules"


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_a_module_imports_only_what_it_may_know(module: str) -> None:
    foreign = set(imports(parsed(module))) - sys.stdlib_module_names - MAY_IMPORT[module]
    assert not foreign, f"{module}.py must not import {sorted(foreign)}"


def test_knowledge_goes_one_way() -> None:
    order: list[str] = []
    waiting = dict(MAY_IMPORT)
    while waiting:
        ready = [name for name, known in waiting.items() if not known & waiting.keys()]
        assert ready, f"these know each other: {sorted(waiting)}"
        order += ready
        waiting = {name: known for name, known in waiting.items() if name not in ready}
    assert order.index("recorder") > order.index("pipeline")


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_a_program(module: str) -> None:
    assert not set(imports(parsed(module))) & PROGRAMS - {module}


@pytest.mark.parametrize("module", sorted(MAY_IMPORT.keys() - COMMANDS))
def test_the_recorder_knows_no_command(module: str) -> None:
    assert not set(imports(parsed(module))) & COMMANDS


@pytest.mark.parametrize("module", MODULES)
def test_what_is_large_is_imported_when_it_is_used(module: str) -> None:
    assert not set(at_once(module)) & ONLY_WHEN_USED


def test_the_root_is_no_package() -> None:
    """The framework looks for its worker upwards through packages, and would leave the project."""
    assert not (ROOT / "__init__.py").exists()


def document(name: str) -> str:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not written yet")
    return path.read_text(encoding="utf-8")


def test_the_readme_has_every_setting() -> None:
    assert readme_table() in document("README.md"), (
        "put the output of `python config.py readme` into README.md"
    )


def test_every_command_in_the_readme_is_one() -> None:
    commands = set(re.findall(r"python (agent|dev|config|lessons)\.py (\w+)", document("README.md")))
    assert {("dev", "demo"), ("dev", "test"), ("agent", "dev"), ("agent", "start")} <= commands
    for program, command in commands:
        assert f'"{command}"' in (ROOT / f"{program}.py").read_text(encoding="utf-8"), (
            f"{program}.py {command}"
        )


def test_the_example_has_every_setting() -> None:
    example = document(".env.example")
    assert example == env_example(), "put the output of `python config.py env` into .env.example"
