"""The package's own rules: floors, no cycles, light imports, a pinned public surface."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import promptsmith

PACKAGE = Path(promptsmith.__file__).parent

FLOORS: dict[str, int] = {
    "errors": 0,
    "version": 0,
    "canonical": 1,
    "redact": 1,
    "chat": 2,
    "contract": 2,
    "receipt": 2,
    "catalog": 2,
    "task": 3,
    "prompt": 3,
    "config": 3,
    "budget": 3,
    "store": 4,
    "models": 5,
    "registry": 5,
    "render": 5,
    "runtime": 6,
    "evals": 7,
    "compiler": 8,
    "economics": 7,
    "savings": 9,
    "proving": 9,
    "promotion": 9,
    "canary": 9,
    "formats": 9,
    "orchestration": 9,
    "pages": 10,
    "service": 11,
    "pytest_plugin": 11,
    "pytest_items": 11,
    "cli": 12,
    "binding": 13,
    "__init__": 13,
    "__main__": 13,
}
SAME_FLOOR = {("task", "prompt"), ("task", "config"), ("binding", "version"), ("pytest_plugin", "pytest_items")}
"""Parts of one floor that stand beside each other without a cycle."""

HEAVY = (
    "openai", "anthropic", "httpx2", "deepdiff", "pydantic", "msgspec", "aiohttp", "diskcache", "genai_prices",
    "filelock", "rich", "jinja2", "yaml",
)  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1]) if parts[-1] == "__init__" and len(parts) > 1 else ".".join(parts)
        found[name] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """Which module of the package imports which, wherever in the file the import stands."""
    names = modules()
    graph = {}
    for name, path in names.items():
        graph[name] = frozenset(edge for edge in _edges(name, path, names) if edge != name)
    return graph


def _edges(name: str, path: Path, names: dict[str, Path]) -> Iterator[str]:
    package = list(path.relative_to(PACKAGE).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in typing_only:
            continue
        base = package[: len(package) - (node.level - 1)]
        target = [*base, *(node.module.split(".") if node.module else [])]
        for alias in node.names:
            for candidate in (".".join([*target, alias.name]), ".".join(target)):
                if candidate in names:
                    yield candidate
                    break


def part(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def test_every_module_stands_on_a_floor() -> None:
    assert {part(name) for name in modules()} <= set(FLOORS)


def test_modules_import_only_lower_floors() -> None:
    wrong = [
        f"{name} (floor {FLOORS[part(name)]}) imports {target} (floor {FLOORS[part(target)]})"
        for name, targets in imports().items()
        for target in targets
        if part(name) != part(target) and FLOORS[part(target)] >= FLOORS[part(name)] and (part(name), part(target)) not in SAME_FLOOR
    ]
    assert wrong == []


def test_there_is_no_import_cycle() -> None:
    # A package's __init__ imports its files; a file importing the package itself would be a cycle.
    try:
        list(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_graph_sees_edges() -> None:
    """The checks above can fail: known edges are in the graph they look at."""
    graph = imports()
    assert "canonical" in graph["chat"]
    assert "store.folder" in graph["runtime.core"]
    assert sum(map(len, graph.values())) > 150


def _modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import promptsmith",
        "from promptsmith.cli import cli\ncli(['--help'], standalone_mode=False)",
        "from promptsmith.cli import cli\ncli(['--version'], standalone_mode=False)",
    ],
)
def test_light_imports(code: str) -> None:
    loaded = _modules_after(code)
    assert "promptsmith" in loaded
    assert not loaded & set(HEAVY)


def test_a_run_loads_only_what_it_needs(tmp_path: Path) -> None:
    """Serving a promoted prompt opens no cache, and needs no SDK, no task reader's YAML but the lock's."""
    code = f"""
from promptsmith.cli import cli
def call(*args): cli(['--project', {str(tmp_path)!r}, *args], standalone_mode=False)
call('init', {str(tmp_path)!r}); call('compile', 'sentiment'); call('promote', 'sentiment', '--force', '--why', 'x')
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = _modules_after(
        f"from promptsmith.cli import cli\ncli(['--project', {str(tmp_path)!r}, 'run', 'sentiment', 'I love it'], standalone_mode=False)"
    )
    assert "promptsmith.runtime.core" in loaded
    assert not loaded & {
        "openai",
        "anthropic",
        "httpx2",
        "pydantic",
        "genai_prices",
        "rich",
        "jinja2",
        "deepdiff",
        "diskcache",
        "filelock",
        "aiohttp",
    }


def test_public_names() -> None:
    """``__all__`` is what the package offers, every name loads, and nothing else is public by accident."""
    assert promptsmith.__all__ == sorted(promptsmith.__all__, key=lambda name: (name.startswith("_"), name)) or sorted(
        promptsmith.__all__
    ) == dir(promptsmith)
    for name in promptsmith.__all__:
        assert getattr(promptsmith, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Runtme'"):
        promptsmith.Runtme  # noqa: B018


def test_no_print_and_no_bare_except_in_the_package() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"), path
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), path
