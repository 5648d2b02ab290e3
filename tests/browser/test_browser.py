"""Finding a browser, and that the one found shows a page."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from playwright.async_api import Browser

from devtools.browser import find_or_install
from devtools.machine import ProgramUnavailable

POSIX_ONLY = pytest.mark.skipif(sys.platform == "win32", reason="programs as POSIX has them")


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is installed but what a test puts into the folder that is its PATH."""
    for name in ("CHROMIUM", "CI", "ProgramFiles", "ProgramFiles(x86)", "LocalAppData"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("devtools.browser.MACOS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(path: Path, script: str = "") -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@POSIX_ONLY
def test_the_setting_goes_before_the_path(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = program(bare_machine / "google-chrome")
    named = program(bare_machine / "mine")
    assert find_or_install() == on_path
    monkeypatch.setenv("CHROMIUM", str(named))
    assert find_or_install() == named


def test_a_wrong_setting_is_said(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", str(bare_machine / "none"))
    with pytest.raises(ProgramUnavailable, match=r"^CHROMIUM=.*is wrong: there is no program there\.$"):
        find_or_install()


@POSIX_ONLY
def test_a_persons_machine_is_left_as_it_is(bare_machine: Path) -> None:
    program(bare_machine / "apt-get", f"echo called > {bare_machine}/called")
    with pytest.raises(ProgramUnavailable, match="There is no Chromium or Chrome here: install it"):
        find_or_install()
    assert not (bare_machine / "called").exists()


@POSIX_ONLY
@pytest.mark.parametrize("works", [True, False])
def test_a_build_machine_gets_one(bare_machine: Path, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    script = f"/bin/cp $0 {bare_machine}/chromium" if works else "echo no such host >&2; exit 100"
    program(bare_machine / "apt-get", script)
    if works:
        assert find_or_install() == bare_machine / "chromium"
    else:
        with pytest.raises(ProgramUnavailable, match=r"^apt-get update failed: no such host$"):
            find_or_install()


@POSIX_ONLY
@pytest.mark.parametrize("may", [True, False])
def test_who_is_not_root_installs_by_sudo(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch, may: bool
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    program(bare_machine / "apt-get", f"/bin/cp $0 {bare_machine}/chromium")
    if may:
        program(bare_machine / "sudo", 'shift 2; exec "$@"')
        assert find_or_install() == bare_machine / "chromium"
    else:
        with pytest.raises(
            ProgramUnavailable, match="Only root on Debian or Ubuntu can do this: apt-get update"
        ):
            find_or_install()


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_a_page_is_shown(browser: Browser) -> None:
    page = await browser.new_page()
    await page.set_content("<p id=greeting>Good morning</p>")
    assert await page.inner_text("#greeting") == "Good morning"
