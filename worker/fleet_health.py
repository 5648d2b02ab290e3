"""The health answer for several worker processes, which names each that is not well, and the metrics of all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from config import Settings
from worker.health import application, exposition, listen

ANSWER_SECONDS = 3.0
"""How long a worker's own answer is waited for."""

NO_ANSWER = "does not answer"


@dataclass(frozen=True)
class Answer:
    """A worker's answer: its status, and its text."""

    status: int
    text: str


async def ask(port: int, path: str) -> Answer:
    """Asks a worker. Status 503 if it does not answer, or has no port yet."""
    if not port:
        return Answer(503, NO_ANSWER)
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                return Answer(response.status, await response.text())
    except (OSError, aiohttp.ClientError, TimeoutError):
        return Answer(503, NO_ANSWER)


async def is_live(port: int) -> bool:
    """Whether the worker answers, and does not need a restart."""
    return (await ask(port, "/live")).status == 200


async def is_ready(port: int) -> bool:
    """Whether the worker takes rooms."""
    return (await ask(port, "/")).status == 200


class Health:
    """Answers for all workers."""

    def __init__(self, ports: Callable[[], Mapping[int, int]]) -> None:
        """
        Args:
            ports: returns the present port of each worker, by its number.
        """
        self._ports = ports

    async def all(self, path: str) -> dict[int, Answer]:
        """The answers of all workers, by number."""
        ports = self._ports()
        answers = await asyncio.gather(*(ask(port, path) for port in ports.values()))
        return dict(zip(ports, answers, strict=True))


@contextlib.asynccontextmanager
async def fleet_health(settings: Settings, health: Health) -> AsyncIterator[int]:
    """Serves health requests while the context is open. Yields the port; 0 if none could be opened."""
    runner = web.AppRunner(_app(health, with_metrics=settings.metrics), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        yield await listen(runner, settings.health_host, settings.health_port)
    finally:
        await runner.cleanup()


def _app(health: Health, *, with_metrics: bool) -> web.Application:
    async def operators(_: web.Request) -> web.Response:
        status, text = verdict(await health.all("/"))
        return web.Response(status=status, text=text)

    async def live(_: web.Request) -> web.Response:
        # The parent restarts a worker that needs it; a restart of everything helps only if no worker is left.
        answers = await health.all("/live")
        is_any_live = any(answer.status == 200 for answer in answers.values())
        return (
            web.Response(status=200) if is_any_live else web.Response(status=503, text="no worker answers\n")
        )

    async def metrics(_: web.Request) -> web.Response:
        answers = await health.all("/metrics")
        text = merged({number: one.text for number, one in answers.items() if one.status == 200})
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return application(operators, live, metrics if with_metrics else None)


def verdict(answers: Mapping[int, Answer]) -> tuple[int, str]:
    """Status and text for operators: 200 and ``OK`` only if all workers are well."""
    problems = [
        f"worker {number}: {answer.text.partition(chr(10))[0]}"
        for number, answer in answers.items()
        if answer.status != 200
    ]
    notes = dict.fromkeys(note for answer in answers.values() for note in answer.text.splitlines()[1:])
    lines = ("; ".join(problems) or "OK", *notes)
    return 503 if problems else 200, "".join(f"{line}\n" for line in lines)


def merged(texts: Mapping[int, str]) -> bytes:
    """The metrics of all workers in Prometheus' text format, each with the label ``worker``."""
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return exposition([registry])


class _Merged(Collector):
    def __init__(self, texts: Mapping[int, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for number, family in self._families():
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                whole.add_sample(sample.name, {**sample.labels, "worker": str(number)}, sample.value)
        return families.values()

    def _families(self) -> Iterator[tuple[int, Metric]]:
        for number, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                yield number, family
