"""The layout of the project: which package may import which, and that documents agree with the code."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator

import pytest

from support import ROOT
from support.program import PACKAGES, sources

MAY_IMPORT = {
    "core": "",
    "livekit_compat": "",
    "config": "core",
    "archive": "config core",
    "audio_processor": "config core",
    "translator": "config core",
    "storage": "archive config core",
    "text": "translator archive config core",
    "delivery": "archive config core",
    "search": "delivery archive config core",
    "recording": "storage audio_processor archive config core",
    "worker": "recording search delivery text storage audio_processor translator archive config core",
    "lesson_tools": "search delivery text recording storage audio_processor translator archive config core",
}
"""Packages, and modules of the root. Imports go one way: each line names only packages above it."""

LIBRARIES = {
    "livekit_compat": "livekit",
    "core": "numpy prometheus_client",
    "config": "dotenv",
    "archive": "aiofiles soundfile",
    "audio_processor": "numpy",
    "translator": "google soundfile",
    "storage": "numpy",
    "text": "prometheus_client",
    "delivery": "obstore prometheus_client psycopg",
    "search": "psycopg",
    "recording": "livekit numpy",
    "worker": "aiohttp google livekit numpy prometheus_client psutil watchfiles",
    "lesson_tools": "av google numpy obstore rich soundfile typer",
}
"""What else each of them imports besides the standard library."""

PROGRAMS = {"agent", "dev", "lessons"}
"""May import anything, and nothing imports them."""

ONLY_WHEN_USED = {"google", "obstore", "psycopg", "rich"}
"""Large, and often not needed: imported by the function that needs them."""

MODULES = [path.relative_to(ROOT).as_posix() for path in sources()]


def imports(tree: ast.AST) -> Iterator[str]:
    """The first parts of everything that is imported, wherever that stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import: everything is imported by its whole name"
            yield (node.module or "").partition(".")[0]


@functools.cache
def parsed(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def at_once(module: str) -> Iterator[str]:
    """What a module imports when it is imported itself."""
    for node in parsed(module).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imports(node)


def place_of(module: str) -> str:
    """The package of a module, or itself if it lies in the root."""
    return module.partition("/")[0].removesuffix(".py")


def test_the_root_has_eight_modules() -> None:
    fixed = {
        "agent",
        "config",
        "audio_processor",
        "storage",
        "translator",
        "lessons",
        "dev",
        "livekit_compat",
    }
    assert {path.stem for path in ROOT.glob("*.py")} == fixed


def test_every_package_has_its_place() -> None:
    assert {place_of(module) for module in MODULES} == PROGRAMS | MAY_IMPORT.keys()


def test_a_module_imports_only_what_its_package_may_know() -> None:
    foreign = {}
    for module in MODULES:
        place = place_of(module)
        if place not in PROGRAMS:
            libraries = LIBRARIES.get(place, "").split()
            known = {place, *MAY_IMPORT[place].split(), *libraries}
            foreign[module] = set(imports(parsed(module))) - sys.stdlib_module_names - known
    assert not {module: names for module, names in foreign.items() if names}


def test_imports_go_one_way() -> None:
    above: set[str] = set()
    for place, known in MAY_IMPORT.items():
        back = set(known.split()) - above
        assert not back, f"{place} knows {sorted(back)}, which stands below it in the table"
        above.add(place)


def test_no_module_imports_a_program() -> None:
    assert not [module for module in MODULES if set(imports(parsed(module))) & PROGRAMS - {place_of(module)}]


def test_what_is_large_is_imported_when_it_is_used() -> None:
    assert not [module for module in MODULES if set(at_once(module)) & ONLY_WHEN_USED]


@pytest.mark.parametrize("package", [*PACKAGES, "lesson_tools/export"])
def test_a_package_says_in_a_few_lines_what_it_is(package: str) -> None:
    (docstring,) = parsed(f"{package}/__init__.py").body
    assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)
    assert 3 <= len(str(docstring.value.value).strip().splitlines()) <= 6


def test_tests_share_their_helpers_in_support() -> None:
    """A helper in a test module is not found by who writes the next test."""
    paths = list((ROOT / "tests").rglob("*.py"))
    modules = {path.parent.name for path in paths if path.stem.startswith("test_")}
    modules |= {path.stem for path in paths if path.stem.startswith("test_")}
    for path in paths:
        found = modules & set(imports(ast.parse(path.read_text(encoding="utf-8"))))
        assert not found, f"{path} imports from a test module: {sorted(found)}"


def test_the_root_is_no_package() -> None:
    """The framework looks for its worker upwards through packages, and would leave the project."""
    assert not (ROOT / "__init__.py").exists()


def document(name: str) -> str:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not written yet")
    return path.read_text(encoding="utf-8")


def test_every_command_in_the_readme_is_one() -> None:
    commands = set(re.findall(r"python (agent|dev|lessons)\.py (\w+)", document("README.md")))
    assert {("dev", "demo"), ("dev", "test"), ("agent", "dev"), ("agent", "start")} <= commands
    for program, command in commands:
        assert f'"{command}"' in (ROOT / f"{program}.py").read_text(encoding="utf-8"), (
            f"{program}.py {command}"
        )


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(document("README.md").splitlines()) <= 150


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_every_link_and_file_that_a_document_names_exists(page: str) -> None:
    text = document(page)
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link
    for name in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text):
        assert (ROOT / name).exists() or any(ROOT.glob(f"*/{name}")), name


def test_every_fact_that_is_cited_is_on_the_page_of_facts() -> None:
    page = document("docs/platform-facts.md")
    known = set(re.findall(r"^\*\*(\d+[a-e]?)\.\*\*", page, re.MULTILINE))
    for path in [*sources(), *(ROOT / "tests").rglob("*.py")]:
        cited = set(re.findall(r"\bfact (\d+[a-e]?)\b", path.read_text(encoding="utf-8")))
        assert cited <= known, f"{path}: {sorted(cited - known)}"
