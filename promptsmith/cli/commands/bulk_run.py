"""``promptsmith run --file``: many inputs from a file, answers to a file that is never half written."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...prompt import TEXT_INPUT
from ...runtime import Failure, Result, RunOptions, Runtime, run_many
from ...runtime.loop import LOOP
from ...store.whole import drafted
from ...task.inputs import input_rows
from ...task.rows import Row
from ..frame import story


def bulk_run(runtime: Runtime, ref: str, source: Path, out: Path | None, concurrency: int | None, options: RunOptions) -> int:
    """Runs every row; returns the exit code: 0 when each has an answer that holds, else 1."""
    prompt = runtime.resolve(ref).prompt
    if not prompt.serve.fallback:
        # An unknown model or a missing key is told once, and not for each row.
        runtime.asynchronous.model(options.get("model") or prompt.model)
    rows = input_rows(source, prompt.inputs)
    inputs = [values for _, values in rows]
    if out is not None:
        _check_target(out, source)
    failed = 0
    writer = _Writer(out)

    def on_result(number: int, outcome: Result | Failure) -> None:
        nonlocal failed
        failed += not outcome.ok
        writer.write(_line(rows[number][0], inputs[number], outcome))

    progress = _progress() if sys.stderr.isatty() else None
    outcomes = LOOP.wait(
        run_many(
            runtime.asynchronous, ref, inputs, concurrency=concurrency, on_progress=progress, on_result=on_result, on_end=writer.finish,
            target=str(out.absolute()) if out else "", **options,
        )
    )  # fmt: skip
    replayed = sum(isinstance(outcome, Result) and outcome.source == "journal" for outcome in outcomes)
    again = f", {replayed} of them known from before" if replayed else ""
    story(f"{len(outcomes) - failed} of {len(outcomes)} answered{again}; prompt {prompt.id[:12]}")
    return 1 if failed else 0


def _line(row: Row, given: Mapping[str, str], outcome: Result | Failure) -> bytes:
    data: dict[str, Any] = {"row": row.where.line}
    if "id" in row.values:
        data["id"] = row.values["id"]
    data["input"] = given[TEXT_INPUT] if list(given) == [TEXT_INPUT] else dict(given)
    if isinstance(outcome, Failure):
        data |= {"ok": False, "error": outcome.error.message, "kind": type(outcome.error).__name__}
    else:
        data |= {"ok": outcome.ok, "output": outcome.value, "model": outcome.model, "prompt": outcome.prompt}
        if outcome.reasons:
            data["reasons"] = list(outcome.reasons)
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


class _Writer:
    """Writes to standard output as answers come; to a file all at once at the end, so that no kill leaves part of one.

    What was answered until then is in the journal, and in the memory of :func:`run_many` anyway.
    """

    def __init__(self, out: Path | None) -> None:
        self._out = out.resolve() if out else None
        self._lines: list[bytes] = []
        if self._out is not None:
            # A folder that can't be written is found out before anything is paid for.
            try:
                tempfile.TemporaryFile(dir=self._out.parent).close()
            except OSError as error:
                raise self._cannot(error) from None

    def write(self, line: bytes) -> None:
        if self._out is not None:
            self._lines.append(line)
            return
        try:
            sys.stdout.buffer.write(line)
        except BrokenPipeError:
            raise  # the reader went away: no error
        except OSError as error:
            raise self._cannot(error) from None

    def finish(self) -> None:
        """Puts the file in its place, whole."""
        try:
            if self._out is None:
                sys.stdout.buffer.flush()
            else:
                with drafted(self._out, b"".join(self._lines), mode=0o666 & ~_umask(), durable=True) as draft:
                    os.replace(draft, self._out)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: OSError) -> InputError:
        return InputError(f"{self._out or 'standard output'} can't be written: {error.strerror}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _check_target(out: Path, source: Path) -> None:
    if out.is_dir():
        raise InputError(f"{out} is a folder", hint="name a file for the answers")
    if out.exists() and source.exists() and out.samefile(source):
        raise InputError(f"--out {out} is the input file itself", hint="name another file for the answers")


def _progress() -> Any:
    def show(done: int, total: int) -> None:
        if done % max(1, total // 100) == 0 or done == total:
            sys.stderr.write(f"\r{done}/{total}{'' if done < total else chr(10)}")
            sys.stderr.flush()

    return show
