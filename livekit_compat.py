"""Keeps packages out of memory that the framework imports and a recorder never uses.

``livekit.agents`` 1.8.9 imports what voice agents need: the OpenAI client (32 MB), PyAV (16 MB), its own modules for
sessions, language models and speech synthesis, and the upload of traces (28 MB together, and half of the time that a
start takes). On a plan with 512 MB that is room for eight more lessons. Importing this module puts placeholders in
their place, whose names can be imported, used in annotations and as base classes, and nothing else. That is all the
pinned version of the framework does with them in a process that runs no voice agent; a test starts the worker so.

Imports ``livekit.agents`` itself. To be imported before it, by the worker only: a process that needs one of
:data:`UNUSED` must not.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

UNUSED = (
    "av",
    "livekit.agents.cli",
    "livekit.agents.inference",
    "livekit.agents.ipc._preload",
    "livekit.agents.llm",
    "livekit.agents.metrics",
    "livekit.agents.stt",
    "livekit.agents.tokenize",
    "livekit.agents.tts",
    "livekit.agents.voice",
    "openai",
)
"""Packages and modules, with all that lies below them."""

UNUSED_BY_FRAMEWORK = ("opentelemetry.exporter", "opentelemetry.sdk", "pydantic", "pydantic_core", "requests")
"""The framework gets placeholders; Google's libraries, which are imported later, get the real ones."""

MISSING_FOR_FRAMEWORK = ("cryptography",)
"""Optional for the library that signs tokens: LiveKit's have a symmetric key."""


class _AnyAttribute(type):
    """A class whose attributes are placeholders too."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _placeholder(name, cls.__module__)


class _Placeholder(metaclass=_AnyAttribute):
    """Stands for any class of an unused package."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __class_getitem__(cls, _: Any) -> type[_Placeholder]:
        return cls


class _PlaceholderModule(ModuleType):
    """A package in which every public name is a class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, _placeholder(name, self.__name__))
        return getattr(self, name)  # type: ignore[no-any-return]


def _placeholder(name: str, module: str) -> type:
    return _AnyAttribute(name, (_Placeholder,), {"__module__": module})


class _NoConsole:
    """What the framework's command line tells each job: that it does not show it in a console."""

    enabled = False

    @classmethod
    def get_instance(cls) -> _NoConsole:
        return cls()


REAL = {"livekit.agents.cli": {"AgentsConsole": _NoConsole}}
"""By module: the names that the framework does use while it runs a job."""


class _Placeholders(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a placeholder for every module of these packages."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _is_in(fullname, self._packages):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = _PlaceholderModule(spec.name)
        vars(module).update(REAL.get(spec.name, {}))
        return module

    def exec_module(self, module: ModuleType) -> None: ...


class _Missing(importlib.abc.MetaPathFinder):
    """Reports packages as not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        if _is_in(fullname, MISSING_FOR_FRAMEWORK):
            raise ModuleNotFoundError(f"No module named {fullname!r} for the framework", name=fullname)


def _is_in(module: str, packages: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _import_framework() -> None:
    """Imports ``livekit.agents``, and then removes the placeholders of packages that others need."""
    sys.meta_path.insert(0, _Placeholders(UNUSED))
    meanwhile = [_Missing(), _Placeholders(UNUSED_BY_FRAMEWORK)]
    sys.meta_path[:0] = meanwhile
    try:
        importlib.import_module("livekit.agents")
        # It describes the process for the upload of traces before the first room.
        importlib.import_module("livekit.agents.ipc.job_proc_lazy_main").__dict__["_resource"] = lambda _: (
            None
        )
    finally:
        for finder in meanwhile:
            sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _PlaceholderModule) and _is_in(name, UNUSED_BY_FRAMEWORK):
                del sys.modules[name]


if "livekit.agents" not in sys.modules:
    _import_framework()


def keep_logs_here() -> None:
    """Turns off the upload of logs and traces to LiveKit Cloud, which its projects may ask of every agent.

    They name participants, and a recorder sends nothing anywhere that its settings do not name. To be called once,
    after ``livekit.agents`` is imported and before a job begins.
    """
    from livekit.agents import job

    job._observability_url = lambda livekit_url: None
