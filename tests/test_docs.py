"""Every example in README and docs is executed; generated pages are what the code says; links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KNOWN = {"console", "python", "yaml", "json", "xml", "toml", "text", ""}
PLAN = re.compile(r"^steps:", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text("utf-8")) if found == language]


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def bin_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The console script of this environment is the one that examples call."""
    import os

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def test_there_are_examples() -> None:
    assert {name(page) for page in with_blocks("console")} >= {"README.md", "docs/guides/first-project.md"}
    assert {name(page) for page in with_blocks("python")} >= {"README.md", "docs/reference/python.md"}
    for page in PAGES:
        assert {language for language, _ in FENCE.findall(page.read_text("utf-8"))} <= KNOWN, name(page)


@pytest.mark.usefixtures("bin_first")
@pytest.mark.parametrize("page", with_blocks("console"), ids=name)
def test_console_examples(page: Path, tmp_path: Path) -> None:
    """The commands of a page, one after the other in an empty folder; each ends with exit code 0."""
    commands = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    assert commands
    for command in commands:
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", with_blocks("python"), ids=name)
def test_python_examples(page: Path, tmp_path: Path) -> None:
    """The Python of a page, as one program."""
    program = "\n".join(blocks(page, "python"))
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", with_blocks("yaml"), ids=name)
def test_yaml_examples_are_task_files_and_plans(page: Path, tmp_path: Path) -> None:
    from promptsmith.orchestration.reading import Known, load_plan
    from promptsmith.task import load_task

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "messages.csv").write_text("text,category\nhello,greeting\ngood bye,farewell\n")
    for number, block in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"task{number}.yaml"
        path.write_text(block, "utf-8")
        assert load_plan(path, Known()).steps if PLAN.search(block) else load_task(path).description


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize("page", sorted({*with_blocks("json"), *with_blocks("xml")}), ids=name)
def test_json_and_xml_examples_are_plans_of_conductors(page: Path, form: Literal["json", "xml"]) -> None:
    from promptsmith.orchestration.reading import Known, read_plan

    for block in blocks(page, form):
        assert read_plan(block, form=form, author="model", known=Known(workers=frozenset(["web_search"]))).steps


@pytest.mark.parametrize("page", with_blocks("toml"), ids=name)
def test_toml_examples_are_settings(page: Path, tmp_path: Path) -> None:
    from promptsmith.config import read_config

    for number, block in enumerate(blocks(page, "toml")):
        path = tmp_path / f"settings{number}.toml"
        path.write_text(block, "utf-8")
        assert read_config(path)


def links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            yield target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    for target in links(page):
        assert (page.parent / target).exists(), target


def test_readme_names_what_exists() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile


def test_generated_pages_are_current() -> None:
    done = subprocess.run([sys.executable, "-m", "docs.generate", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
