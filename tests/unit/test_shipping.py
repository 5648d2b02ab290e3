"""The shipping files agree with the program: what is in the image, who runs it, what the hosts are told."""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
import functools
import importlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import lessons
from config import Settings
from support import ROOT
from support.lessons_on_disk import spoken, with_texts
from support.program import sources

yaml = importlib.import_module("yaml")  # it has no type hints of its own

SETTINGS = {field.name.upper(): field.metadata["kind"] for field in dataclasses.fields(Settings)}
REQUIRED = {name: "ws://127.0.0.1" for name, kind in SETTINGS.items() if kind.required}
SECRET_LOOKING = re.compile("KEY|SECRET|TOKEN|PASSW|CREDENTIAL", re.IGNORECASE)


# --- reading a Dockerfile ---


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    argument: str

    @property
    def exec_form(self) -> list[str]:
        """The command as a list; fails for the shell form, which would put a shell between SIGTERM and Python."""
        words = json.loads(self.argument[self.argument.index("[") :])
        assert isinstance(words, list)
        return [str(word) for word in words]


def instructions() -> list[Instruction]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def final_stage() -> list[Instruction]:
    everything = instructions()
    starts = [index for index, one in enumerate(everything) if one.name == "FROM"]
    assert len(starts) > 1, "one stage installs, another one ships"
    return everything[starts[-1] :]


def only(name: str) -> Instruction:
    """The last stage's one instruction of that name."""
    found = [one for one in final_stage() if one.name == name]
    assert len(found) == 1, f"{name}: {len(found)} times"
    return found[0]


def variables(name: str) -> dict[str, str]:
    """All values that ENV or ARG lines give."""
    pairs = [shlex.split(one.argument) for one in instructions() if one.name == name]
    return dict(pair.partition("=")[::2] for line in pairs for pair in line)


def is_in_build_context(path: str) -> bool:
    """Whether .dockerignore lets a file through: the last line that names it or a folder above it decides."""
    parts = path.split("/")
    names = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    verdict = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            is_exception = pattern.startswith("!")
            if any(fnmatch.fnmatchcase(name, pattern.removeprefix("!")) for name in names):
                verdict = is_exception
    return verdict


# --- what is in the image ---


@functools.cache
def imported_by(path: Path) -> set[str]:
    """Dotted names of everything a module imports, also inside functions, and of the packages around them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in found]
    return {".".join(names[:length]) for names in parts for length in range(1, len(names) + 1)}


def modules_of(*programs: str) -> set[str]:
    """The files that these programs need, as paths below the root."""
    files = [path.relative_to(ROOT) for path in sources()]
    ours = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    known: set[str] = set()
    waiting = set(programs)
    while waiting:
        module = waiting.pop()
        known.add(module)
        waiting |= (imported_by(ROOT / ours[module]) & ours.keys()) - known
        waiting |= _commands() - known if module == "lessons" else set()
    return {ours[module].as_posix() for module in known}


def _commands() -> set[str]:
    """The modules of lessons.py's commands, which it imports by their names."""
    return {target.rpartition(".")[0] for group in lessons.COMMANDS.values() for target, _ in group.values()}


def modules_of_the_worker() -> set[str]:
    return modules_of("agent")


def test_every_module_that_the_programs_import_is_in_the_image() -> None:
    missing = [path for path in sorted(modules_of("agent", "lessons")) if not is_in_build_context(path)]
    assert not missing, "add a line for each to .dockerignore"


def test_the_commands_are_in_the_image_with_the_files_that_they_read() -> None:
    needed = modules_of("lessons")
    assert {"lessons.py", "lesson_tools/check.py", "lesson_tools/erase.py", "search/index.py"} <= needed
    for package in {path.rpartition("/")[0] for path in needed} - {""}:
        data = [
            path
            for path in (ROOT / package).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        ]
        for path in data:
            assert is_in_build_context(path.relative_to(ROOT).as_posix()), path


@pytest.mark.slow
def test_what_the_programs_import_from_outside_is_installed_in_the_image() -> None:
    """Imported, a package may have another name than the one that is installed."""
    installed = {
        "dotenv": "python-dotenv",
        "google": "google-genai",
        "prometheus_client": "prometheus-client",
        "av": "av",
    }
    names = re.findall(
        r"^([a-z0-9-]+)(?:\[[^\]]*\])?==",
        (ROOT / "requirements.txt").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    ours = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in sources()}
    for path in modules_of("lessons"):
        outside = (
            {name.partition(".")[0] for name in imported_by(ROOT / path)} - ours - sys.stdlib_module_names
        )
        missing = {name for name in outside if installed.get(name, name) not in names}
        assert not missing, f"{path} imports {missing}"


@pytest.mark.slow
def test_a_copy_of_the_image_runs_the_commands(tmp_path: Path) -> None:
    """Only what is in the build context, on a disk with a lesson."""
    for path in (path for package in ("", "*/", "*/*/", "*/*/*/") for path in ROOT.glob(f"{package}*")):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and is_in_build_context(name) and "__pycache__" not in name:
            (tmp_path / "app" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "app" / name)
    segments = tmp_path / "data" / "segments"
    with_texts(segments / "math101", spoken(Settings(output_dir=str(segments)), "math101", 2))
    environ = {**os.environ, "OUTPUT_DIR": str(segments), "PYTHONDONTWRITEBYTECODE": "1"}
    for arguments in (["check", "--quick"], ["export", "math101"], ["erase", "math101", "--yes"]):
        command = [sys.executable, str(tmp_path / "app" / "lessons.py"), *arguments]
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stderr
    assert not (segments / "math101").exists()


def test_the_whole_build_context_is_copied() -> None:
    assert any(one.name == "COPY" and one.argument == ". ./" for one in instructions())


def test_dev_watches_all_packages_of_the_worker() -> None:
    packages = {path.partition("/")[0] for path in modules_of_the_worker() if "/" in path}
    assert set(literal_in("worker/dev_reload.py", "PACKAGES")) == packages


def test_the_build_context_names_no_file_that_is_gone() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    named = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert [name for name in named if not any(ROOT.glob(name))] == []


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.local",
        ".env.production",
        ".git/config",
        ".venv/bin/python",
        "segments/room/segment_001.wav",
        "lecture.wav",
        "devtools/speech/lecture.flac",
        "tests/unit/test_shipping.py",
        "docs/deploy.md",
        "notes.txt",
        "dev.py",
        "devtools/installer.py",
    ],
)
def test_nothing_else_gets_into_the_image(path: str) -> None:
    assert not is_in_build_context(path)


def test_both_stages_stand_on_the_same_pinned_python_and_debian() -> None:
    bases = {one.argument.split()[0] for one in instructions() if one.name == "FROM"}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", bases.pop())


def test_packages_are_installed_by_hash_and_never_built() -> None:
    installs = [one.argument for one in instructions() if one.name == "RUN" and " install " in one.argument]
    pip = [line for line in installs if "requirements.txt" in line]
    assert len(pip) == 1
    assert "--require-hashes" in pip[0]
    assert "--only-binary=:all:" in pip[0]
    assert not any("apt" in shlex.split(one.argument) for one in instructions() if one.name == "RUN")


def test_there_is_no_secret_in_the_dockerfile() -> None:
    names = [*variables("ENV"), *variables("ARG")]
    assert [name for name in names if SECRET_LOOKING.search(name)] == []
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert [name for name, kind in SETTINGS.items() if kind.secret and name in text] == []


def test_the_image_gives_only_settings_that_exist_and_are_right() -> None:
    given = {name: value for name, value in variables("ENV").items() if name in SETTINGS}
    settings = Settings.from_env({**REQUIRED, **given})
    assert settings.output_dir.startswith("/data/")


def test_railway_accepts_the_dockerfile() -> None:
    assert not [one for one in instructions() if one.name == "VOLUME"]


# --- who runs it, and how it ends ---


def test_the_worker_is_not_root() -> None:
    user = only("USER").argument
    for name, value in variables("ARG").items():
        user = user.replace(f"${{{name}}}", value)
    uid = user.partition(":")[0]
    assert uid.isdecimal(), "a number, so that Kubernetes can see that it is not root"
    assert int(uid) > 0


def test_sigterm_reaches_python() -> None:
    assert only("STOPSIGNAL").argument == "SIGTERM"
    assert only("CMD").exec_form[0] == "python"
    assert [Path(word).name for word in only("CMD").exec_form[1:]] == ["agent.py", "start"]
    wrapper = only("ENTRYPOINT").exec_form[0]
    script = next(one.argument for one in final_stage() if f"> {wrapper}" in one.argument)
    assert re.findall(r"(\w+) (?:\$as )?\"\$@\"", script) == ["exec", "exec"], "it must replace itself"


@contextmanager
def health_answer(status: int) -> Iterator[int]:
    """A server on a port of its own that answers every request with ``status``."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def health_check(port: int) -> int:
    """Runs the image's HEALTHCHECK here and returns its exit code."""
    program, *arguments = only("HEALTHCHECK").exec_form
    assert program == "python"
    environment = {**os.environ, "HEALTH_PORT": str(port)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, stderr=subprocess.DEVNULL, timeout=20, check=False
    ).returncode


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False)])
def test_the_health_check_reads_the_health_answer(status: int, is_healthy: bool) -> None:
    with health_answer(status) as port:
        assert (health_check(port) == 0) == is_healthy


def test_the_health_check_fails_when_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        assert health_check(taken.getsockname()[1]) != 0


def test_the_health_check_knows_the_default_port() -> None:
    assert f"or {Settings.health_port}" in only("HEALTHCHECK").argument


# --- what the hosts are told ---


def literal_in(module: str, name: str) -> Any:
    """The value of a module's constant, read without importing it."""
    for node in ast.parse((ROOT / module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no {name}")


def stop_timeout_seconds() -> float:
    """How long the worker may take to stop."""
    return float(literal_in("worker/stop.py", "STOP_TIMEOUT_SECONDS"))


def render_worker() -> dict[str, Any]:
    blueprint = yaml.safe_load((ROOT / "render.yaml").read_text(encoding="utf-8"))
    assert list(blueprint) == ["services"]
    assert len(blueprint["services"]) == 1
    worker = blueprint["services"][0]
    assert isinstance(worker, dict)
    return worker


def railway() -> dict[str, Any]:
    found = json.loads((ROOT / "railway.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_render_runs_a_background_worker_with_a_disk() -> None:
    worker = render_worker()
    assert (worker["type"], worker["runtime"], worker["plan"]) == ("worker", "docker", "starter")
    assert Path(variables("ENV")["OUTPUT_DIR"]).is_relative_to(worker["disk"]["mountPath"])
    assert stop_timeout_seconds() < worker["maxShutdownDelaySeconds"] <= 300
    assert worker["autoDeployTrigger"] in ("commit", "checksPass", "off"), "unquoted, off is a boolean"


def test_render_asks_for_what_is_required_and_knows_no_secret() -> None:
    entries = {entry["key"]: entry for entry in render_worker()["envVars"]}
    assert {key for key, entry in entries.items() if entry == {"key": key, "sync": False}} == set(REQUIRED)


def test_render_names_only_settings_and_build_arguments_that_exist() -> None:
    given = {entry["key"]: entry["value"] for entry in render_worker()["envVars"] if "value" in entry}
    assert set(given) <= set(SETTINGS) | set(variables("ARG"))
    assert all(isinstance(value, str) for value in given.values()), "unquoted, a number or a boolean"
    Settings.from_env({**REQUIRED, **given})


def test_railway_starts_what_the_image_starts() -> None:
    assert railway()["build"] == {"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"}
    command = shlex.split(railway()["deploy"]["startCommand"])
    assert command == only("ENTRYPOINT").exec_form + only("CMD").exec_form  # it replaces both


def test_railway_keeps_the_worker_up_and_the_recordings_on_a_volume() -> None:
    deploy = railway()["deploy"]
    assert deploy["restartPolicyType"] == "ALWAYS"
    assert deploy["sleepApplication"] is False
    assert deploy["requiredMountPath"] == render_worker()["disk"]["mountPath"]
    assert "healthcheckPath" not in deploy, "the health answer is not public"
    assert isinstance(deploy["drainingSeconds"], int), "Railway refuses a number in quotes"
    assert deploy["drainingSeconds"] > stop_timeout_seconds()


def test_railway_names_only_settings_that_exist() -> None:
    text = (ROOT / "railway.json").read_text(encoding="utf-8")
    assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", text)) <= set(SETTINGS)


def test_the_guide_names_only_settings_that_exist() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    of_others = {"RAILWAY_RUN_UID", "ON_FAILURE", *variables("ARG")}
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)[`=]", text))
    assert set(REQUIRED) < named <= set(SETTINGS) | of_others


# --- what must not be in the tree at all ---

SOMEBODYS = re.compile(
    rb"""[\w-]+\.livekit\.cloud            # a project of LiveKit Cloud
    | \bAPI(?=\w*\d)[A-Za-z0-9]{11,}\b  # its API key
    | \bAIza[\w-]{30,}                  # a key of Google's
    | \bAKIA[0-9A-Z]{12,}               # of AWS
    | \beyJ[\w-]{16,}\.eyJ              # a signed token
    | -----BEGIN[ A-Z]*PRIVATE\ KEY      # any other
    """,
    re.VERBOSE,
)


def test_nothing_in_the_tree_looks_like_a_key_or_a_project_of_somebodys() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = [
        f"{name}: {match.group().decode(errors='replace')}"
        for name in listed.stdout.decode().split("\0")
        if (ROOT / name).is_file()
        for match in SOMEBODYS.finditer((ROOT / name).read_bytes())
    ]
    assert not found


@pytest.mark.parametrize("text", [b"wss://school-1a2b.livekit." + b"cloud", b"API" + b"kd83hfQz71Lm"])
def test_a_key_or_a_project_would_be_seen(text: bytes) -> None:
    assert SOMEBODYS.search(b"somewhere " + text + b" in a line")
