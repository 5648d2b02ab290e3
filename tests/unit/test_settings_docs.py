"""The documents of the settings: docs/settings.md, .env.example, and the table in the README."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from config import Settings
from devtools import settings_docs
from devtools.settings_docs import ENV_EXAMPLE, GROUPS, SETTINGS_PAGE, env_example, settings_page
from support import ROOT

NAMES = [field.name.upper() for field in dataclasses.fields(Settings)]
FIRST_EIGHT = [
    "LIVEKIT_URL",
    "LIVEKIT_API_KEY",
    "LIVEKIT_API_SECRET",
    "GEMINI_API_KEY",
    "OUTPUT_DIR",
    "SAVE_AUDIO",
    "SAVE_TRANSLATIONS",
    "LOG_LEVEL",
]
REQUIRED = {
    "LIVEKIT_URL": "wss://school.example",
    "LIVEKIT_API_KEY": "APIxyz",
    "LIVEKIT_API_SECRET": "s3cr3t-s3cr3t-s3cr3t",
}
HINT = "run `python -m devtools.settings_docs`"


def names_in_example() -> list[str]:
    return re.findall(r"^#?([A-Z0-9_]+)=", env_example(), re.MULTILINE)


def rows_in(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| `")]


def test_both_documents_are_written_from_the_settings() -> None:
    assert SETTINGS_PAGE.read_text(encoding="utf-8") == settings_page(), HINT
    assert ENV_EXAMPLE.read_text(encoding="utf-8") == env_example(), HINT


def test_the_command_writes_both_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, example = tmp_path / "settings.md", tmp_path / ".env.example"
    monkeypatch.setattr(settings_docs, "SETTINGS_PAGE", page)
    monkeypatch.setattr(settings_docs, "ENV_EXAMPLE", example)
    settings_docs.main()
    assert page.read_bytes() == settings_page().encode()
    assert example.read_bytes() == env_example().encode()


def test_config_py_has_the_headings_of_the_documents() -> None:
    lines = (ROOT / "config.py").read_text(encoding="utf-8").splitlines()
    for group in GROUPS:
        line = lines.index(f"    # --- {group.heading} ---")
        first = next(one for one in lines[line + 1 :] if re.match(r"    \w+: ", one))
        assert first.startswith(f"    {group.first}: ")


def test_the_page_has_a_row_for_each_setting() -> None:
    rows = rows_in(settings_page())
    assert [row.split("`")[1] for row in rows] == NAMES
    assert all(row.count("|") == 5 for row in rows)


def test_the_example_has_each_setting_and_begins_with_the_eight_that_matter_first() -> None:
    assert names_in_example() == NAMES
    assert names_in_example()[: len(FIRST_EIGHT)] == FIRST_EIGHT
    assert GROUPS[1].first.upper() == names_in_example()[len(FIRST_EIGHT)]


def test_the_example_works_once_the_first_three_are_filled_in(tmp_path: Path) -> None:
    example = env_example()
    for name, value in REQUIRED.items():
        assert example.count(f"\n{name}=\n") == 1
        example = example.replace(f"\n{name}=\n", f"\n{name}={value}\n")
    (tmp_path / ".env").write_text(example, encoding="utf-8")
    found = {name: value or "" for name, value in dotenv_values(tmp_path / ".env").items()}
    assert Settings.from_env(found) == Settings.from_env(REQUIRED)
    assert set(found) == set(REQUIRED)


def test_every_default_in_the_example_is_the_default() -> None:
    values = dict(re.findall(r"^#?([A-Z0-9_]+)=(.*)$", env_example(), re.MULTILINE))
    assert set(values) == set(NAMES)
    assert Settings.from_env({**values, **REQUIRED}) == Settings.from_env(REQUIRED)


def test_the_readme_shows_ten_settings_as_the_page_does() -> None:
    rows = rows_in((ROOT / "README.md").read_text(encoding="utf-8"))
    settings = [row for row in rows if row.split("`")[1] in NAMES]
    assert len(settings) == 10
    assert settings[: len(FIRST_EIGHT)] == rows_in(settings_page())[: len(FIRST_EIGHT)]
    assert set(settings) <= set(rows_in(settings_page()))
