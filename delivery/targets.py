"""Creates the targets that the settings name. Wrong settings are reported, one line each; recording continues."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from config import Settings
from core.errors import ConfigError
from delivery.folder_store import folder_in
from delivery.items import Target

_S3_NAMES = ("s3_bucket", "s3_key_id", "s3_key_secret")


def problems_of(settings: Settings) -> list[str]:
    """Checks the targets' settings, and returns one line for each problem."""
    problems = []
    given = [name for name in _S3_NAMES if getattr(settings, name)]
    missing = [name.upper() for name in _S3_NAMES if not getattr(settings, name)]
    if missing and (given or settings.s3_endpoint or settings.s3_prefix):
        problems.append(f"{', '.join(missing)} not set: without it nothing is delivered to S3")
    elif given and not settings.s3_endpoint and settings.s3_region == "auto":
        problems.append("S3_REGION is not set: AWS needs it, such as eu-central-1 (or set S3_ENDPOINT)")
    if settings.s3_endpoint and not _is_url(settings.s3_endpoint, ("http", "https")):
        problems.append(f"S3_ENDPOINT={settings.s3_endpoint[:80]} is wrong: it must be an http or https URL")
    if settings.store_url and not _is_store(settings.store_url):
        problems.append(
            "STORE_URL is wrong: it must be gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"
            " (Windows: file:///C:/FOLDER), with other signs escaped (%23 for #)"
        )
    if settings.database_url and not _is_url(settings.database_url, ("postgres", "postgresql")):
        problems.append(
            "DATABASE_URL=(hidden) is wrong: it must be postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        )
    return problems


def open_targets(settings: Settings) -> tuple[list[Target], list[str]]:
    """Creates every target whose settings are complete and valid, without connecting. Returns them and the problems."""
    problems = problems_of(settings)
    wrong = " ".join(problems)
    targets: list[Target] = []
    try:
        if all(getattr(settings, name) for name in _S3_NAMES) and "S3_" not in wrong:
            from delivery.object_store import ObjectTarget

            targets.append(ObjectTarget.s3(settings))
        if settings.store_url and "STORE_URL" not in wrong:
            from delivery.object_store import ObjectTarget

            targets.append(ObjectTarget.at_store_url(settings))
    except ConfigError as error:
        problems.append(str(error))
    try:
        if settings.database_url and "DATABASE_URL" not in wrong:
            from delivery.postgres import PostgresTarget

            targets.append(PostgresTarget(settings.database_url))
    except ConfigError as error:
        problems.append(str(error))
    return targets, problems


def names_of_targets(settings: Settings, report: Callable[[str], None]) -> tuple[str, ...]:
    """The names of these targets; ``report`` is called with each problem. Must not be called in an event loop."""
    targets, problems = open_targets(settings)
    for problem in problems:
        report(problem)
    if targets:
        import asyncio  # imported only if there are targets

        asyncio.run(close_all(targets))
    return tuple(target.name for target in targets)


async def close_all(targets: Iterable[Target]) -> None:
    """Closes the connections of all targets."""
    for target in targets:
        await target.aclose()


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname)


def _is_store(text: str) -> bool:
    scheme, _, rest = text.partition("://")
    if scheme != "file":
        return scheme in ("gs", "az") and bool(rest.strip("/"))
    try:
        return bool(folder_in(text))
    except ValueError:
        return False
