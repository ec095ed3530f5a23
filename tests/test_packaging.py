"""What is shipped: the wheel's contents, its life outside the checkout, the sdist's list."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    return out


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"promptsmith"}
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "promptsmith").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked <= set(names)
    for needed in (
        "promptsmith/py.typed",
        "promptsmith/task.schema.json",
        "promptsmith/templates/sentiment.yaml",
        "promptsmith/cli/commands/cache.py",
        "promptsmith/pages/style.css",
        "promptsmith/pages/report.js",
        "promptsmith/pages/templates/report.html",
        "promptsmith/pages/templates/compare.html",
        "promptsmith/pages/templates/provenance.html",
        "promptsmith/pages/templates/scatter.html",
        "promptsmith/compiler/meta_prompts/draft.md",
        "promptsmith/evals/scorers/function_words.txt",
    ):
        assert needed in names


def test_the_wheel_works_outside_the_checkout(dist: Path, tmp_path: Path) -> None:
    """A fresh environment that sees this one's dependencies, but neither the checkout nor its data folders."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", next(dist.glob("*.whl")), cwd=tmp_path)
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    # addsitedir would also run the editable install's .pth file, which leads back to the checkout.
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    where = run(python, "-c", "import promptsmith; print(promptsmith.__file__)", cwd=outside).strip()
    assert where.startswith(str(site))
    for folder in ("evals", "cache", "tests", "benchmarks"):
        done = subprocess.run([python, "-c", f"import {folder}"], cwd=outside, capture_output=True, text=True, check=False)
        assert "ModuleNotFoundError" in done.stderr, f"{folder} is importable"
    program = tmp_path / "venv" / "bin" / "promptsmith"
    run(program, "init", cwd=outside)
    run(program, "compile", "sentiment", cwd=outside)
    assert run(program, "run", "sentiment@latest", "Ten out of ten, broth still steaming!", cwd=outside).strip() == "positive"


def test_the_sdist_lists_what_it_takes(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    tops = {name.split("/")[0] for name in names}
    assert {"promptsmith", "evals", "cache", "tests", "benchmarks", "docs", "README.md", "LICENSE", "Makefile", "pyproject.toml"} <= tops
    assert {name for name in names if name.startswith("cache/")} == {"cache/README.md", "cache/.gitignore"}
    assert not {name for name in names if name.startswith((".venv", "dist"))}


def test_every_gitignore_line_is_anchored() -> None:
    for line in (ROOT / ".gitignore").read_text().splitlines():
        if line and not line.startswith("#"):
            assert line.removeprefix("!").startswith("/"), line


def test_nothing_of_the_package_is_ignored_by_git() -> None:
    files = [
        str(path.relative_to(ROOT)) for path in (ROOT / "promptsmith").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    done = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == ""
