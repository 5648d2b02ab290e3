"""Prevents the framework from loading packages that a recorder never uses.

``livekit.agents`` 1.8.9 imports what voice agents need: the OpenAI client (32 MB), PyAV (16 MB), its own modules for
sessions, language models and speech synthesis, and the upload of traces (28 MB together, and half of the time of a
start). On a plan with 512 MB that is the memory of eight more lessons. Importing this module replaces these modules
with placeholders. Their names can be imported, used in annotations and used as base classes; the classes do nothing.
The pinned version of the framework needs no more in a process that runs no voice agent; a test starts the worker in
this way.

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
"""The packages and modules that are replaced, with everything below them."""

UNUSED_BY_FRAMEWORK = ("opentelemetry.exporter", "opentelemetry.sdk", "pydantic", "pydantic_core", "requests")
"""The framework gets placeholders; Google's libraries, which are imported later, get the real ones."""

MISSING_FOR_FRAMEWORK = ("cryptography",)
"""Optional for the library that signs tokens: LiveKit's have a symmetric key."""


class _AnyAttribute(type):
    """Metaclass: every public attribute of such a class is a placeholder, too."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _placeholder(name, cls.__module__)


class _Placeholder(metaclass=_AnyAttribute):
    """Takes the place of any class of an unused package."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __class_getitem__(cls, _: Any) -> type[_Placeholder]:
        return cls


class _PlaceholderModule(ModuleType):
    """A module in which every public name is a placeholder class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, _placeholder(name, self.__name__))
        return getattr(self, name)  # type: ignore[no-any-return]


def _placeholder(name: str, module: str) -> type:
    return _AnyAttribute(name, (_Placeholder,), {"__module__": module})


class _NoConsole:
    """Replaces the framework's console, which every job asks whether it is running in a console: no."""

    enabled = False

    @classmethod
    def get_instance(cls) -> _NoConsole:
        return cls()


REAL = {"livekit.agents.cli": {"AgentsConsole": _NoConsole}}
"""The names that the framework does use while it runs a job, by module, and what takes their place."""


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


def disable_log_upload() -> None:
    """Turns off the upload of logs and traces to LiveKit Cloud, which a project there may request from every agent.

    Logs and traces name participants, and the recorder sends data only to places that its settings name. Call this
    once, after importing ``livekit.agents`` and before a job begins.
    """
    from livekit.agents import job

    job._observability_url = lambda livekit_url: None
