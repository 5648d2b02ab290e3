"""The workers that are compared, each a process started as an operator starts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from devtools.livekit_server import LiveKitServer
from devtools.worker import AGENT, REGISTERED, Worker

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Recipe:
    """A worker to measure: its script, the line that says it is ready, and its settings."""

    name: str
    script: Path
    ready: str = REGISTERED
    settings: Mapping[str, str] = field(default_factory=dict)
    saves_at_end: bool = True
    """Whether it is stopped with SIGTERM instead of being killed."""


OURS = Recipe("ours", AGENT)
STOCK = Recipe("stock", HERE / "stock_agent.py", "registered worker", saves_at_end=False)
STOCK_UNLIMITED = Recipe(
    "stock",
    STOCK.script,
    STOCK.ready,
    {"STOCK_TAKES_EVERY_ROOM": "1"},
    saves_at_end=False,
)
RECEIVE_ONLY = Recipe("receive only", HERE / "receive_agent.py", "registered worker", saves_at_end=False)


class RecipeWorker(Worker):
    """A worker of a recipe: ``async with RecipeWorker(recipe, server, folder) as worker``."""

    def __init__(self, recipe: Recipe, server: LiveKitServer, output_dir: Path) -> None:
        super().__init__(server, output_dir, settings=recipe.settings, program=recipe.script)
        self.recipe = recipe
        self.ready = recipe.ready

    async def stop(self) -> int:
        if self.recipe.saves_at_end:
            return await super().stop()
        self.kill()
        return self.exit_code or 0
