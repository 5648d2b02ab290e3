"""Keeps packages out of memory that the framework imports and a recorder never uses.

``livekit.agents`` 1.8.9 imports what voice agents need: the OpenAI client (32 MB), PyAV (16 MB), its own modules for
sessions, language models and speech synthesis, and the upload of traces (28 MB together, and half of the time that a
start takes). On a plan with 512 MB that is room for eight more lessons. Importing this module puts placeholders in
their place, whose names can be imported, used in annotations and as base classes, and nothing else. That is all the
pinned version of the framework does with them in a process that runs no voice agent; a test starts the worker so.

To be imported before ``livekit.agents``, by the worker only: a process that needs one of the packages must not.
"""

from __future__ import annotations

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
    "livekit.agents.llm",
    "livekit.agents.metrics",
    "livekit.agents.stt",
    "livekit.agents.tokenize",
    "livekit.agents.tts",
    "livekit.agents.voice",
    "openai",
    "opentelemetry.exporter",
    "requests",
)
"""Packages and modules, with all that lies below them."""


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


class _UnusedPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a placeholder for every module of the unused packages."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not any(f"{fullname}.".startswith(f"{unused}.") for unused in UNUSED):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = _PlaceholderModule(spec.name)
        vars(module).update(REAL.get(spec.name, {}))
        return module

    def exec_module(self, module: ModuleType) -> None: ...


if "livekit.agents" not in sys.modules:
    sys.meta_path.insert(0, _UnusedPackages())


def keep_logs_here() -> None:
    """Turns off the upload of logs and traces to LiveKit Cloud, which its projects may ask of every agent.

    They name participants, and a recorder sends nothing anywhere that its settings do not name. To be called once,
    after ``livekit.agents`` is imported and before a job begins.
    """
    from livekit.agents import job

    job._observability_url = lambda livekit_url: None
