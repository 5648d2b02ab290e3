"""dev.py before there is an environment: it is created and repaired, and what is missing is reported in one line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devtools import pythons
from devtools.demo_page import has_desktop
from devtools.environment import Environment, Stamp, what_to_do
from devtools.installer import as_uv_settings, unreachable
from devtools.machine import free_port
from devtools.programs import ROOT, Failed
from devtools.progress import timed

pytestmark = pytest.mark.slow

HERE = "{}.{}".format(*sys.version_info[:2])
DONE = {"adopted": False, "requirements.txt": "hash"}
THEIRS = {"adopted": True, "requirements.txt": "hash"}
NO_REGISTRY = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(ROOT / "nowhere")}
PREPARE = (
    "import sys; from pathlib import Path; from devtools.environment import Environment;"
    "Environment(Path(sys.argv[1])).prepare('requirements.txt')"
)


@pytest.mark.parametrize(
    ("stamp", "version", "may_be_replaced", "expected"),
    [
        (None, None, True, "create"),  # nothing there, or what is left of an environment
        (None, HERE, True, "install"),  # somebody's own that works: adopted
        ({}, None, True, "create"),  # its creation was broken off
        ({}, HERE, True, "create"),
        ({"adopted": False}, HERE, True, "create"),  # installing was broken off
        (DONE, HERE, True, "install"),  # other pins than before
        (DONE, None, True, "create"),  # its Python is gone
        (DONE, "3.10", True, "create"),
        (THEIRS, HERE, True, "install"),
        ({"adopted": True}, HERE, True, "reinstall"),
    ],
)
def test_an_environment_is_created_repaired_or_used(
    stamp: Stamp | None, version: str | None, may_be_replaced: bool, expected: str
) -> None:
    assert what_to_do(stamp, version, may_be_replaced, Path(".venv")) == expected


@pytest.mark.parametrize(
    ("stamp", "version", "may_be_replaced"),
    [(None, "3.10", True), (THEIRS, "3.10", True), (THEIRS, None, True), (None, None, False)],
)
def test_an_environment_of_another_tool_is_never_replaced(
    stamp: Stamp | None, version: str | None, may_be_replaced: bool
) -> None:
    with pytest.raises(Failed, match="was not made by this command"):
        what_to_do(stamp, version, may_be_replaced, Path(".venv"))


def test_a_folder_that_is_no_environment_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(Failed, match="move it away"):
        _project(tmp_path).prepare("requirements.txt")
    assert [path.name for path in (tmp_path / ".venv").iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment that was made whole after its first installation was killed."""
    environment = _project(tmp_path_factory.mktemp("project"))
    with pytest.MonkeyPatch.context() as patched:
        for name, value in NO_REGISTRY.items():
            patched.setenv(name, value)
        if sys.platform != "win32":  # what is killed there keeps no lock
            _begin_and_kill(environment)
        environment.prepare("requirements.txt")
    return environment


def _begin_and_kill(environment: Environment) -> None:
    first = subprocess.Popen([sys.executable, "-c", PREPARE, str(environment.folder.parent)], cwd=ROOT)
    while not (environment.folder / "pyvenv.cfg").exists():
        time.sleep(0.01)
    first.kill()  # what it has started goes on
    first.wait()


@pytest.mark.timeout(300)
def test_a_killed_installation_is_made_whole_by_the_next_run(
    repaired: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([repaired.python, "-m", "pip", "--version"], check=True, capture_output=True)
    for name, value in NO_REGISTRY.items():
        monkeypatch.setenv(name, value)
    made_at = repaired.python.lstat().st_mtime_ns
    repaired.prepare("requirements.txt")
    assert repaired.python.lstat().st_mtime_ns == made_at


def _project(root: Path) -> Environment:
    (root / "requirements.txt").write_text("", encoding="utf-8")
    return Environment(root)


# --- no network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "host"),
    [
        (
            "Could not fetch URL https://user:word@mirror.test:8443/simple/uv/: connection error: Max retries exceeded",
            "mirror.test:8443",
        ),
        (
            "HTTPSConnectionPool(host='mirror.test', port=443): Read timed out. (read timeout=15)",
            "mirror.test",
        ),
        (
            "error: Request failed after 1 retry\n  cause: Failed to fetch: http://mirror.test/simple/six/\n"
            "  cause: client error (Connect)",
            "mirror.test",
        ),
        ('Get "http://proxy.test/x/@v/v1.zip": dial tcp: lookup proxy.test: no such host', "proxy.test"),
        ("ERROR: No matching distribution found for uv==0.13.9", None),
        ("HTTP 404 for https://mirror.test/simple/uv/", None),
    ],
)
def test_the_host_that_could_not_be_reached_is_found_in_what_a_tool_says(said: str, host: str | None) -> None:
    assert unreachable(said) == host


@pytest.mark.timeout(300)
def test_without_a_network_there_is_one_line(repaired: Environment) -> None:
    registry = f"127.0.0.1:{free_port()}"
    root = repaired.folder.parent
    (root / "requirements.txt").write_text("# other pins", encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    program = (
        f"import dev; dev.prepare_environment = lambda name: exec({PREPARE!r}); sys.exit(dev.main(['bench']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}", str(root)],
        cwd=ROOT,
        env={**own, "PIP_INDEX_URL": f"http://{registry}/simple"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert f"pip cannot reach {registry}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_uv_uses_the_registry_that_pip_is_told_to() -> None:
    config = "\n".join(
        [
            ":env:.index-url='https://mine.test/simple'",
            "global.cert='/etc/ca.pem'",
            "global.extra-index-url='\\nhttps://a.test/simple\\nhttps://b.test/simple'",
            "global.find-links='/nowhere https://wheels.test/'",
            "global.index-url='https://theirs.test/simple'",
            "global.timeout='60'",
        ]
    )
    assert as_uv_settings(config) == {
        "UV_DEFAULT_INDEX": "https://mine.test/simple",
        "UV_INDEX": "https://a.test/simple https://b.test/simple",
        "UV_FIND_LINKS": "https://wheels.test/",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }


# --- which Python --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 10), (3, 15)])
def test_another_python_says_in_one_line_what_to_install(
    version: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    assert not pythons.is_suitable()
    line = pythons.advice()
    assert line.startswith(f"Python 3.{version[1]} cannot run this, only 3.11 to 3.1")
    assert "dev.py get-python" in line
    assert "\n" not in line


def test_a_suitable_python_elsewhere_on_the_path_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pythons, "MORE_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pythons, "fetched_folder", lambda: tmp_path / "pythons")
    if os.name == "posix":
        assert pythons.another() is None
        (tmp_path / f"python{HERE}").symlink_to(sys.executable)
        assert pythons.another() == [str(tmp_path / f"python{HERE}")]


# --- what people see -----------------------------------------------------------------------------------------------


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_line_moves() -> None:
    screen, lines = _Terminal(), list[str]()
    with timed("Installing", "5 seconds", lines.append, screen):
        time.sleep(0.5)
    assert screen.getvalue().count("Installing (5 seconds) ...") >= 2
    assert screen.getvalue().endswith("\r")
    assert [line.partition(":")[0] for line in lines] == ["Installing"]


def test_elsewhere_there_are_two_plain_lines() -> None:
    lines: list[str] = []
    with timed("Installing", "5 seconds", lines.append, io.StringIO()):
        pass
    assert lines == ["Installing (5 seconds) ...", "  done in 0 s"]


def test_no_browser_is_opened_without_a_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("CI", "")
    assert has_desktop({"WAYLAND_DISPLAY": "wayland-0"})
    assert not has_desktop({})
    monkeypatch.setenv("CI", "true")
    assert not has_desktop({"DISPLAY": ":0"})
