"""Settings and the project: both forms of the file, every mistake with its line, where a project is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptsmith.config import Config, Endpoint, Limit, Service, check_task_name, find_project, read_config
from promptsmith.errors import InputError, SourceError

FULL = """\
evals = "tasks"
lock = "prompts.lock"
protected = ["production", "canary"]
[models]
production = "acme/small"
meta = "acme/large"
[compile]
level = 0
seed = 5
example_tokens = 900
[cache]
folder = ".cache"
reply_days = 1.5
reply_megabytes = 2
[limits."acme/small"]
concurrency = 3
timeout = 9.5
[limits.acme]
concurrency = 7
"""


def as_pyproject(text: str) -> str:
    """The same settings below ``[tool.promptsmith]``."""
    lines = text.splitlines()
    return "[tool.promptsmith]\n" + "\n".join(f"[tool.promptsmith.{line[1:]}" if line.startswith("[") else line for line in lines) + "\n"


def read(folder: Path, text: str, name: str = "promptsmith.toml") -> Config:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def problems(folder: Path, text: str, name: str = "promptsmith.toml") -> list[str]:
    with pytest.raises(SourceError) as caught:
        read(folder, text, name)
    return [line.replace(f"{folder}{os.sep}", "") for line in str(caught.value).splitlines()]


def test_every_setting_is_read_from_both_files(tmp_path: Path) -> None:
    """``promptsmith.toml`` and ``[tool.promptsmith]`` say the same with the same words."""
    own, shared = read(tmp_path, FULL), read(tmp_path, as_pyproject(FULL), "pyproject.toml")
    assert own == shared
    assert (own.evals, own.lock, own.protected) == ("tasks", "prompts.lock", ("production", "canary"))
    assert (own.models.production, own.models.meta) == ("acme/small", "acme/large")
    assert (own.compile.level, own.compile.seed, own.compile.example_tokens) == (0, 5, 900)
    assert (own.cache.folder, own.cache.reply_seconds, own.cache.reply_bytes) == (".cache", 1.5 * 86400, 2 * 2**20)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[service]\ncors = ["*"]\n', "2: service: cors = '*' would let the pages of every site spend money here"),
        (
            '[service]\ncors = ["https://a.example/"]\n',
            "2: service: cors: 'https://a.example/' is no origin as browsers send it, write 'https://a",
        ),
        ('[service]\ncors = ["https://A.example:443"]\n', "write 'https://a.example'"),
        ('[service]\ncors = ["a.example"]\n', "write 'https://a.example'"),
        ('[service]\ncors = ["https://"]\n', "is no origin as browsers send it, https://app.example.com is one"),
        ('[service]\ncors = ["https://a b"]\n', "is no origin as browsers send it, https://app.example.com is one"),
        ('[service]\ncors = ["chrome-extension://abc"]\n', "is no origin as browsers send it, https://app.example.com is one"),
        ('[service]\nsticky_header = "x sticky:"\n', "2: service: sticky_header: 'x sticky:' can't be a header's name"),
        ('[service]\nport = 1\ntls_key = "k"\n', "3: service: tls_cert and tls_key belong together"),
        (
            '[endpoints.a]\nprotocol = "openai"\nbase_url = "localhost:8000/v1"\n',
            "3: endpoints.a: base_url is no http:// or https://",
        ),
        (
            '[endpoints.a]\nprotocol = "openai"\nbase_url = "https://u:pass@h:x"\n',
            "3: endpoints.a: base_url is no http:// or https://",
        ),
    ],
)
def test_values_that_can_not_work_are_told_with_their_line(tmp_path: Path, text: str, told: str) -> None:
    [found] = problems(tmp_path, text)
    assert told in found
    assert "pass" not in found


def test_values_that_work(tmp_path: Path) -> None:
    origins = ("https://app.example.com", "http://localhost:5173", "http://127.0.0.1", "http://[::1]:3000", "https://xn--bcher-kva.example")
    config = read(tmp_path, f"[service]\ncors = {json.dumps(origins)}\nsticky_header = 'X-User_Id'\n")
    assert config.service.cors == origins
    with pytest.raises(InputError, match="cors"):
        Service(cors=("*",))
    with pytest.raises(InputError, match="base_url"):
        Endpoint(protocol="openai", base_url="example.com")


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """Nothing has to be set."""
    config = read(tmp_path, "")
    assert config == Config()
    assert config.models.production == "builtin/nearest"
    assert config.protected == ("production",)


def test_a_limit_is_found_by_model_then_endpoint_then_default(tmp_path: Path) -> None:
    """The most exact name wins."""
    config = read(tmp_path, FULL)
    assert config.limit("acme/small") == Limit(concurrency=3, timeout=9.5)
    assert config.limit("acme/other") == Limit(concurrency=7)
    assert config.limit("builtin/nearest") == Limit()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("evlas = 'x'\n", 1, "unknown key 'evlas' in the top level, did you mean 'evals'?"),
        ("# note\n\n[modles]\nproduction = 'a/b'\n", 3, "unknown key 'modles' in the top level, did you mean 'models'?"),
        ("[models]\nprodcution = 'a/b'\n", 2, "unknown key 'prodcution' in [models], did you mean 'production'?"),
        ("models.prodcution = 'a/b'\n", 1, "unknown key 'prodcution' in [models], did you mean 'production'?"),
        ("[cache]\nreply_days = 3\nreply_day = 4\n", 3, "did you mean 'reply_days'?"),
        ("[limits.'a/b']\nconcurency = 4\n", 2, "did you mean 'concurrency'?"),
        ("[compile]\nzzz = 1\n", 2, "the keys are level, seed, example_tokens, confirm_usd"),
        ("[models]\nproduction = 3\n", 2, "models.production: Expected `str`, got `int`"),
        ("[compile]\nseed = 'x'\n", 2, "compile.seed: Expected `int`, got `str`"),
        ("models = 3\n", 1, "models is no table, its keys are production, meta"),
        ("protected = 'production'\n", 1, "protected: Expected `array`, got `str`"),
        ("[limits.'a/b']\ntimeout = 'long'\n", 2, "timeout"),
        ("[limits]\nconcurrency = 4\n", 2, "concurrency"),
        ("[models]\nproduction = ''\n", 2, "models.production: Expected `str` of length >= 1"),
        ("[models\n", 1, "is not TOML"),
        ("a = " + "9" * 5000 + "\n", 0, "is not TOML"),
        ("a = " + "[" * 5000 + "\n", 0, "is not TOML"),
        ("a = ", 1, "is not TOML"),
        ("a = 1\na = 2\n", 2, "is not TOML"),
    ],
)
def test_a_mistake_names_its_line_in_both_files(tmp_path: Path, text: str, line: int, said: str) -> None:
    """Unknown keys get the nearest known one; a wrong type says what stands there and what should."""
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(f"promptsmith.toml:{line}: " if line else "promptsmith.toml: ")
    assert said in found[0]
    if "TOML" in said or text.startswith("models."):
        return
    shared = problems(tmp_path, as_pyproject(text), "pyproject.toml")
    assert len(shared) == 1
    assert shared[0].startswith(f"pyproject.toml:{line + 1}: ")


def test_all_unknown_keys_are_told_at_once(tmp_path: Path) -> None:
    """A file with three wrong keys and a wrong value needs no more than one look."""
    found = problems(tmp_path, "evlas = 'x'\n[models]\nmeta_model = 'a/b'\nproduction = 3\n[cache]\nfolders = 'y'\n")
    assert [line.split(": ")[0] for line in found] == [f"promptsmith.toml:{number}" for number in (1, 3, 4, 6)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[compile]\nlevel = 7\n", "level"),
        ("[compile]\nexample_tokens = -1\n", "example_tokens"),
        ("[compile]\nseed = -1\n", "seed"),
        ("[limits.'a/b']\nconcurrency = 0\n", "concurrency"),
        ("[limits.'a/b']\ntimeout = 0\n", "timeout"),
        ("[cache]\nreply_days = -1\n", "reply_days"),
        ("[cache]\nreply_megabytes = -5\n", "reply_megabytes"),
        ("[cache]\nreply_megabytes = inf\n", "reply_megabytes"),
        ("[cache]\nreply_days = nan\n", "reply_days"),
    ],
)
def test_a_value_out_of_bounds_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """A limit of no calls at all would wait for ever; a negative size means nothing."""
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith("promptsmith.toml:2: ")
    assert said in found[0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"evals = 'caf\xe9'\n", "promptsmith.toml:1: is not UTF-8"),
        (b"a\0b", "promptsmith.toml:1: is not TOML"),
        (b"\xef\xbb\xbfevals = 'x'\n", ""),
    ],
)
def test_bytes_that_are_no_text(tmp_path: Path, data: bytes, said: str) -> None:
    """A wrong encoding is an error with its line; a byte order mark is none."""
    path = tmp_path / "promptsmith.toml"
    path.write_bytes(data)
    if not said:
        assert read_config(path).evals == "x"
        return
    with pytest.raises(SourceError) as caught:
        read_config(path)
    assert said in str(caught.value)


# --- where a project is -----------------------------------------------------------------------------------


def test_the_project_is_found_from_here_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest folder with settings wins, from any depth below it."""
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "promptsmith.toml").touch()
    monkeypatch.chdir(deep)
    assert find_project().root == tmp_path
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.promptsmith]\nevals = 'mine'\n")
    assert (find_project().root, find_project().config.evals) == (tmp_path / "a", "mine")
    (tmp_path / "a" / "b" / "pyproject.toml").write_text("[tool.other]\n")
    assert find_project().root == tmp_path / "a"


def test_own_settings_win_over_pyproject_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files in one folder: the one made for it counts."""
    (tmp_path / "promptsmith.toml").write_text("evals = 'own'\n")
    (tmp_path / "pyproject.toml").write_text("[tool.promptsmith]\nevals = 'shared'\n")
    monkeypatch.chdir(tmp_path)
    assert find_project().config.evals == "own"


def test_the_environment_names_the_project_and_an_argument_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``PROMPTSMITH_PROJECT`` goes before the current folder, an explicit folder before both."""
    for name in ("here", "env", "explicit"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "promptsmith.toml").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PROMPTSMITH_PROJECT", str(tmp_path / "env"))
    assert find_project().root == tmp_path / "env"
    assert find_project(tmp_path / "explicit").root == tmp_path / "explicit"
    monkeypatch.setenv("PROMPTSMITH_PROJECT", "")
    assert find_project().root == tmp_path / "here"


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_a_named_folder_without_a_project_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A typo in the folder's name must not fall back to another project."""
    (tmp_path / "promptsmith.toml").touch()
    monkeypatch.chdir(tmp_path)
    if way == "environment":
        monkeypatch.setenv("PROMPTSMITH_PROJECT", str(tmp_path / "no"))
    with pytest.raises(InputError, match="is no promptsmith project"):
        find_project(tmp_path / "no" if way == "argument" else None)


def test_outside_any_project_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task made in Python needs no project; its build products do not litter the current folder."""
    monkeypatch.chdir(tmp_path)
    project = find_project()
    assert project.file is None
    assert project.cache == tmp_path / "user-cache" / "promptsmith"


def test_an_unreadable_pyproject_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file that names us is an error with its line, not another project."""
    (tmp_path / "pyproject.toml").write_text("[tool.promptsmith]\nevals = \n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"pyproject\.toml:2: is not TOML"):
        find_project()


def test_the_words_alone_make_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pyproject that only mentions the table in a comment or text is somebody else's."""
    (tmp_path / "promptsmith.toml").write_text("evals = 'above'\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "pyproject.toml").write_text("# see [tool.promptsmith]\n[tool.other]\nx = 1\n")
    monkeypatch.chdir(tmp_path / "inner")
    assert find_project().config.evals == "above"


def test_tasks_are_named_by_their_path(tmp_path: Path) -> None:
    """``evals/support/triage.yaml`` is ``support/triage``."""
    for name in ("b", "support/triage", "support/deep/x"):
        path = tmp_path / "evals" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "evals" / "note.txt").touch()
    (tmp_path / "promptsmith.toml").touch()
    project = find_project(tmp_path)
    assert project.task_names() == ["b", "support/deep/x", "support/triage"]
    assert project.task_file("support/triage") == tmp_path / "evals" / "support" / "triage.yaml"


@pytest.mark.parametrize("name", ["", "../x", "a/../b", "/etc/passwd", "a//b", ".hidden", "a@b", "a b", "a\n", "é", "-x", "a/"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    """A task's name can't leave the folder or look like something else."""
    with pytest.raises(InputError, match="can't be a task's name"):
        check_task_name(name)


def test_project_flag_and_environment_reach_the_commands(tmp_path: Path) -> None:
    """The command line finds the project by flag (before or after the command), by environment, and from below."""
    root = tmp_path / "p"
    (root / "evals" / "deep").mkdir(parents=True)
    (root / "promptsmith.toml").touch()
    (root / "evals" / "only.yaml").write_text("task: x\noutput: [a, b]\nexamples: [{input: i, output: a}]\n")

    def tasks(*args: str, cwd: Path, **env: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "promptsmith", *args], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=True
        )
        return [row["task"] for row in json.loads(done.stdout)]

    assert tasks("--project", str(root), "list", "--json", cwd=tmp_path) == ["only"]
    assert tasks("list", "--json", "--project", str(root), cwd=tmp_path) == ["only"]
    assert tasks("list", "--json", cwd=tmp_path, PROMPTSMITH_PROJECT=str(root)) == ["only"]
    assert tasks("list", "--json", cwd=root / "evals" / "deep") == ["only"]
