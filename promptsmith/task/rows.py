"""Examples from data files: JSONL, CSV and TSV, read row by row; which side of a split a row is on; what repeats.

Everything here is a generator over one open file, so a file costs no memory beyond the rows that are kept.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import msgspec

from .. import canonical
from ..contract import Check, shorten
from ..errors import Problem, SourceError, did_you_mean
from ..prompt import TEXT_INPUT, Variable
from .document import MAX_DEPTH, MAX_DIGITS, Node, Problems, cannot_read, not_utf8, nul_problem, shown, utf16_problem
from .values import Example, Where

FIELD_CHARS = 16 * 1024 * 1024
"""The most that one quoted field may hold."""
LINE_BYTES = 2 * FIELD_CHARS
"""The most that one line may hold; bounds the memory that a file without line ends can take."""
MOST_MISTAKES = 20
"""After so many in one data file, reading it stops: a wrong column would give one for each row."""

_LISTED = 5


class Row(msgspec.Struct, frozen=True):
    """One record as read. ``typed`` rows (JSONL) hold JSON values, the others hold text only."""

    values: Mapping[str, Any]
    where: Where
    typed: bool


def read_rows(path: str | os.PathLike[str], problems: Problems, node: Node | None = None) -> Iterator[Row]:
    """The rows of a ``.jsonl``, ``.csv`` or ``.tsv`` file. Raises nothing: what is wrong is added to ``problems``.

    A mistake inside one row leaves the others readable; one that hides where rows begin ends the reading. A file
    that can't be opened is told at ``node``, the place that names it.
    """
    file = shown(path)
    reader = _READERS.get(Path(path).suffix.lower())
    if reader is None:
        _report_file(Problem(file, 0, "this kind of file can't be read", f"save it as {', '.join(_READERS)}"), problems, node)
        return
    before = len(problems)
    found = False
    try:
        for row in reader(_lines(path, file), file, problems):
            found = True
            if row is not None:
                yield row
            # Looked at after the row was used, so mistakes that the mapping found in it count as well.
            mistakes = len(problems) - before
            if mistakes >= MOST_MISTAKES:
                problems.at(Where(file), f"reading stopped after {mistakes} mistakes", "mend these first")
                return
    except OSError as error:
        _report_file(cannot_read(file, error), problems, node)
        return
    except SourceError as error:
        problems.extend(error.problems)
        return
    if not found:
        problems.at(Where(file), "the file has no rows", "write one row for each example")


def _report_file(problem: Problem, problems: Problems, node: Node | None) -> None:
    if node is None:
        problems.extend([problem])
    else:
        problems.add(node, f"{problem.file}: {problem.what}", problem.right)


Lines = Iterator[tuple[int, str]]
Reader = Callable[[Lines, str, Problems], Iterator[Row | None]]
"""Lines, the file's name and the collector -> rows; ``None`` stands for a row that can't be read and was reported."""


def _lines(path: str | os.PathLike[str], file: str) -> Lines:
    """Numbered lines, each ending in a bare LF (the last perhaps in nothing), whatever the file's line ends are.

    CRLF becomes LF inside quoted fields too: git may check the same file out with either.
    """
    offset = 0
    if "\0" in os.fspath(path):
        raise OSError("its name has a NUL in it")  # open() has a ValueError for this
    with Path(path).open("rb") as stream:
        for number, data in enumerate(iter(lambda: stream.readline(LINE_BYTES + 1), b""), 1):
            yield number, _line(data, number, offset, file)
            offset += len(data)


def _line(data: bytes, number: int, offset: int, file: str) -> str:
    if number == 1:
        wide = utf16_problem(file, data)
        if wide:
            raise SourceError([wide])
    if b"\0" in data:
        raise SourceError([nul_problem(file, number)])
    if len(data) > LINE_BYTES:
        raise SourceError([Problem(file, number, f"the line is longer than {LINE_BYTES // 1024 // 1024} MB")])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError([not_utf8(file, data, error, line=number, offset=offset)]) from None
    if number == 1:
        text = text.removeprefix("\ufeff")
    return text[:-2] + "\n" if text.endswith("\r\n") else text


# --- JSON -------------------------------------------------------------------------------------------------


class WrittenInt(int):
    """A whole number from JSON that keeps how it was written (``-0``)."""

    text: str


class WrittenFloat(float):
    """A number from JSON that keeps how it was written (``1.10``)."""

    text: str


class NotJson(ValueError):
    """The text is no JSON."""


class _Refused(NotJson):
    """The text is JSON of a kind that different programs read differently."""


def _integer(text: str) -> WrittenInt:
    if len(text) > MAX_DIGITS:
        raise _Refused(f"a number of {len(text)} digits")
    number = WrittenInt(text)
    number.text = text
    return number


def _number(text: str) -> WrittenFloat:
    number = WrittenFloat(text)
    if math.isinf(number):
        raise _Refused(f"the number {text[:40]} is too large")
    number.text = text
    return number


def _constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is no JSON value")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"the key {shorten(twice)} stands twice")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_float=_number, parse_constant=_constant)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str) -> Any:
    """A JSON value, its numbers with their written text. Raises :class:`NotJson` or :class:`_Refused` in words."""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise NotJson(f"this is not valid JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise _Refused(f"JSON nested more than {MAX_DEPTH} deep") from None
    if isinstance(value, dict | list) and text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(value):
        raise _Refused(f"JSON nested more than {MAX_DEPTH} deep")
    if _SURROGATE_ESCAPE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _Refused("a text has half of a surrogate pair (\\ud800 to \\udfff)") from None
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        children = (child for item in level for child in (item.values() if isinstance(item, dict) else item))
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _jsonl(lines: Lines, file: str, problems: Problems) -> Iterator[Row | None]:
    for number, line in lines:
        if not line.strip():
            continue
        where = Where(file, number)
        try:
            value = parse_json(line.rstrip("\n"))
        except NotJson as error:
            problems.at(where, str(error), "write one JSON object a line")
            yield None
            continue
        if not isinstance(value, dict):
            problems.at(where, f"this line is {_kind(value)}", 'write one JSON object a line: {"input": …, "output": …}')
            yield None
            continue
        yield Row(value, where, typed=True)


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return "a text"
    return written_value(value) if value is None or isinstance(value, bool) else f"the number {written_value(value)[:40]}"


def written_value(value: Any) -> str:
    """A JSON scalar as it was written; texts without their quotes."""
    if isinstance(value, str):
        return value
    if isinstance(value, WrittenInt | WrittenFloat):
        return value.text
    return json.dumps(value)


# --- CSV and TSV ------------------------------------------------------------------------------------------
# The csv module was rejected: its field limit is one number for the whole process (another library's, or another
# thread's, if we moved it), and of an unclosed quote it knows the end of the file but not the line where the quote
# opened. What is accepted is what ``csv.reader(strict=True)`` accepts; a test compares the two.


def _table(delimiter: str, name: str) -> Reader:
    def read(lines: Lines, file: str, problems: Problems) -> Iterator[Row | None]:
        records = _Records(lines, delimiter, name, file, problems)
        header = records.header()
        found = False
        for line, fields in records:
            found = True
            if fields is None:
                yield None
            elif len(fields) != len(header):
                more = len(fields) > len(header)
                right = f"put a text that has a {name} in it in double quotes" if more else "write one field for each column"
                problems.at(Where(file, line), f"the row has {_count(len(fields), 'field')}, the header has {len(header)}", right)
                yield None
            else:
                yield Row(dict(zip(header, fields, strict=True)), Where(file, line), typed=False)
        if not found:
            raise SourceError([Problem(file, 1, "the file has a header but no rows", "write one row for each example")])

    return read


class _Records:
    """Records of a delimited file, each with the line where it begins; empty lines are skipped.

    A record whose quotes are wrong within its one line has been reported and comes as ``None``.
    """

    def __init__(self, lines: Lines, delimiter: str, name: str, file: str, problems: Problems) -> None:
        self.lines, self.delimiter, self.name, self.file, self.problems = lines, delimiter, name, file, problems
        self._number, self._text, self._at = 0, "", 0

    def header(self) -> list[str]:
        """The column names. Raises :class:`SourceError` when they are no use."""
        line, fields = next(iter(self), (0, []))
        if not line:
            raise SourceError([Problem(self.file, 0, "the file is empty", "write a header line and one row for each example")])
        if fields is None:
            raise SourceError([])  # reported already; without column names the rows say nothing
        names = [field.strip() for field in fields]
        wrong = [Problem(self.file, line, f"column {at} has no name", "name every column") for at, name in enumerate(names, 1) if not name]
        wrong += [
            Problem(self.file, line, f"two columns are named {shorten(name)}", "give each its own name")
            for at, name in enumerate(names)
            if name and name in names[:at]
        ]
        if wrong:
            raise SourceError(wrong)
        return names

    def __iter__(self) -> Iterator[tuple[int, list[str] | None]]:
        for number, line in self.lines:
            if '"' not in line:
                bare = line.removesuffix("\n")
                self._check_bare(bare, number)
                if bare:
                    yield number, bare.split(self.delimiter)
                continue
            self._number, self._text, self._at = number, line, 0
            yield number, self._quoted_record()

    def _check_bare(self, field: str, line: int) -> None:
        if "\r" in field:
            self._fail(line, "there is a lone carriage return (old Mac line end)", "save the file with LF or CRLF line ends")

    def _quoted_record(self) -> list[str] | None:
        fields = []
        while True:
            if self._text.startswith('"', self._at):
                opened = self._number
                fields.append(self._quoted_field())
                if not self._at_field_end():
                    self._report_quote(opened)
                    return None
            else:
                end = self._text.find(self.delimiter, self._at)
                end = end if end >= 0 else len(self._text.removesuffix("\n"))
                fields.append(self._text[self._at : end])
                self._check_bare(fields[-1], self._number)
                self._at = end
            if not self._text.startswith(self.delimiter, self._at):
                return fields
            self._at += len(self.delimiter)

    def _at_field_end(self) -> bool:
        return self._text.startswith((self.delimiter, "\n"), self._at) or self._at == len(self._text)

    def _quoted_field(self) -> str:
        opened, parts, size = self._number, [], 0
        self._at += 1
        while True:
            end = self._text.find('"', self._at)
            twice = end >= 0 and self._text.startswith('"', end + 1)
            stop = len(self._text) if end < 0 else end + twice
            parts.append(self._text[self._at : stop])
            size += stop - self._at
            if size > FIELD_CHARS:
                self._fail(opened, f"the quote that opens here is not closed within {FIELD_CHARS // 1024 // 1024} MB", "close it")
            self._at = stop + 1
            if end >= 0 and not twice:
                return "".join(parts)
            if end < 0:
                self._number, self._text = next(self.lines, (0, ""))
                self._at = 0
                if not self._number:
                    self._fail(opened, "the quote that opens here is never closed", 'close it, and write a quote inside a text twice ("")')

    def _report_quote(self, opened: int) -> None:
        follows = shorten(self._text[self._at : self._at + 20].removesuffix("\n"))
        right = f'write a quote inside a text twice (""), and a {self.name} or the line end after the closing one'
        if opened == self._number:
            self.problems.at(Where(self.file, opened), f"a quoted field goes on after its closing quote with {follows}", right)
            return
        # Over several lines it is more likely that this quote was never closed: what follows can't be told apart.
        self._fail(opened, f"the quote that opens here is closed only in line {self._number}, where {follows} follows it", right)

    def _fail(self, line: int, what: str, right: str) -> NoReturn:
        raise SourceError([Problem(self.file, line, what, right)])


_READERS: Mapping[str, Reader] = {
    ".jsonl": _jsonl,
    ".csv": _table(",", "comma"),
    ".tsv": _table("\t", "tab"),
}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- promptfoo's __expected -------------------------------------------------------------------------------

EXPECTED = "__expected"
_ASSERTIONS = (
    "equals", "contains", "contains-all", "contains-any", "icontains", "icontains-all", "icontains-any", "starts-with", "regex",
    "levenshtein", "bleu", "gleu", "rouge-n", "meteor", "similar", "similar:cosine", "similar:dot", "similar:euclidean",
    "word-count", "is-json", "contains-json", "is-xml", "contains-xml", "is-html", "contains-html", "is-sql", "contains-sql",
    "is-valid-function-call", "is-valid-openai-function-call", "is-valid-openai-tools-call", "tool-call-f1", "finish-reason",
    "javascript", "python", "ruby", "webhook", "fn", "eval", "cost", "latency", "perplexity", "perplexity-score", "llm-rubric",
    "agent-rubric", "search-rubric", "g-eval", "factuality", "model-graded-factuality", "model-graded-closedqa", "answer-relevance",
    "context-faithfulness", "context-recall", "context-relevance", "conversation-relevance", "pi", "classifier", "moderation",
    "guardrails", "is-refusal", "grade", "trajectory:goal-success", "trajectory:tool-args-match", "trajectory:step-count",
    "trajectory:tool-sequence", "trajectory:tool-used", "skill-used", "trace-error-spans", "trace-span-count",
    "trace-span-duration", "select-best", "max-score", "human", "assert-set",
)  # fmt: skip
_ASSERTION = re.compile(rf"((?:not-)?(?:{'|'.join(sorted(_ASSERTIONS, key=len, reverse=True))}))(\([^()]*\))?(?::(.*))?", re.DOTALL)


def assertion(cell: str) -> tuple[str, str] | None:
    """The assertion's name (with ``not-`` and threshold) and value; ``None`` for a plain value."""
    if cell.startswith("file://"):
        return "file://", ""
    match = _ASSERTION.fullmatch(cell)
    if match is None:
        return None
    name, threshold, value = match[1], match[2] or "", match[3]
    # promptfoo also takes a bare `human` or `cost` as an assertion; as an expected value it is far more likely a label.
    if value is None and not threshold and "-" not in name.removeprefix("not-"):
        return None
    return name + threshold, (value or "").strip()


# --- rows to examples -------------------------------------------------------------------------------------

_TEXT_COLUMNS = (TEXT_INPUT, "text")
_OUTPUT_COLUMNS = ("output", "expected", "label")
_OTHER = ("output", "id", "tags")


class _Columns(NamedTuple):
    """Which column feeds what, for rows with the same columns."""

    inputs: dict[str, str | None]
    """Variable -> column; ``None`` when its default is used."""
    output: str
    id: str | None
    tags: str | None


class _Unusable(Exception):
    """A row that cannot become an example; what is wrong with it has been reported."""


def map_rows(
    rows: Iterable[Row],
    problems: Problems,
    node: Node | None = None,
    *,
    inputs: Sequence[Variable] = (),
    mapping: Mapping[str, str] | None = None,
    json_outputs: bool = False,
) -> Iterator[Example]:
    """The examples that ``rows`` hold. Raises nothing: what is wrong is added to ``problems``.

    ``mapping`` goes from ``input`` (or the declared ``inputs``), ``output``, ``id`` and ``tags`` to column names; it
    stands at ``node``. With ``json_outputs``, text that parses as JSON becomes JSON text.
    """
    at = problems.where(node) if node else Where(problems.file)
    return _Mapper(problems, inputs, mapping or {}, at, json_outputs).examples(rows)


class _Mapper:
    def __init__(self, problems: Problems, inputs: Sequence[Variable], mapping: Mapping[str, str], at: Where, json_outputs: bool) -> None:
        self.problems, self.mapping, self.at, self.json_outputs = problems, mapping, at, json_outputs
        self.named = bool(inputs)
        self.variables = tuple(inputs) or (Variable(TEXT_INPUT),)
        self.names = [variable.name for variable in self.variables]
        self._last: tuple[tuple[str, ...], _Columns] | None = None
        self._unseen = set(mapping.values())

    def examples(self, rows: Iterable[Row]) -> Iterator[Example]:
        if not self._mapping_fits():
            return
        file = ""
        for row in rows:
            file = row.where.file
            try:
                yield self._example(row)
            except _Unusable:
                if not row.typed and self._last is None:
                    return  # the columns do not fit, which is the same for every row of a table
        for target in _OTHER:
            if self.mapping.get(target) in self._unseen and file:
                self.problems.at(
                    self.at, f"'map' takes {target} from {self.mapping[target]!r}, which no row of {file} has", "name a column it has"
                )

    def _mapping_fits(self) -> bool:
        targets = [*self.names, *(name for name in _OTHER if name not in self.names)]
        unknown = [name for name in self.mapping if name not in targets]
        for name in unknown:
            self.problems.at(
                self.at, f"'map' has the unknown key {name!r}", did_you_mean(name, targets) or f"its keys are {', '.join(targets)}"
            )
        return not unknown

    def _example(self, row: Row) -> Example:
        values = self._opened(row)
        columns = self._columns(row, values)
        inputs = {variable.name: self._input(row, values, columns.inputs[variable.name], variable) for variable in self.variables}
        output, is_json, checks = self._output(row, values[columns.output], columns.output == EXPECTED)
        given = self._scalar(row, values[columns.id], "the id").strip() if columns.id else ""
        return Example(
            id=given or canonical.case_id(inputs),
            inputs=inputs,
            output=output,
            json=is_json,
            tags=self._tags(row, values[columns.tags]) if columns.tags else (),
            checks=checks,
            where=row.where,
        )

    def _opened(self, row: Row) -> Mapping[str, Any]:
        """The row's values; named inputs may stand together in an object named ``input``, as in a task file."""
        inner = row.values.get(TEXT_INPUT)
        if not (self.named and isinstance(inner, dict)) or TEXT_INPUT in self.names or self.mapping:
            return row.values
        unknown = [name for name in inner if name not in self.names]
        if unknown:
            self._refuse(
                row, f"unknown input {unknown[0]!r}", did_you_mean(unknown[0], self.names) or f"the inputs are {', '.join(self.names)}"
            )
        return {**row.values, **inner}

    def _columns(self, row: Row, values: Mapping[str, Any]) -> _Columns:
        known = tuple(values)
        if self._last is None or self._last[0] != known:
            self._last = None
            self._last = known, self._plan(row, known)
            self._unseen.difference_update(known)
        return self._last[1]

    def _plan(self, row: Row, known: tuple[str, ...]) -> _Columns:
        for target, column in self.mapping.items():
            # JSONL rows may leave out an id or tags; a name that no row has is reported at the end.
            if column not in known and not (row.typed and target in ("id", "tags")):
                self._missing(row, target, column, known)
        inputs = {variable.name: self._input_column(row, variable, known) for variable in self.variables}
        taken = set(inputs.values())
        output = self.mapping.get("output") or next(
            (name for name in (EXPECTED, *_OUTPUT_COLUMNS) if name in known and name not in taken), None
        )
        if output is None:
            words = "', '".join(_OUTPUT_COLUMNS[:-1]) + f"' or '{_OUTPUT_COLUMNS[-1]}"
            self._refuse_columns(row, f"there is no column '{words}' for the output", "output", "output", known)
        if output == EXPECTED:
            self._check_single_assertion(row, known)
        taken.add(output)
        return _Columns(inputs, output, *(self._optional(name, known, taken) for name in ("id", "tags")))

    def _optional(self, target: str, known: tuple[str, ...], taken: set[str | None]) -> str | None:
        column = self.mapping.get(target)
        if column is None and target not in taken:
            column = target
        return column if column in known else None

    def _input_column(self, row: Row, variable: Variable, known: tuple[str, ...]) -> str | None:
        mapped = self.mapping.get(variable.name)
        candidates = (mapped,) if mapped else (variable.name,) if self.named else _TEXT_COLUMNS
        column = next((name for name in candidates if name in known), None)
        if column is None and variable.default is None:
            words = "' or '".join(candidates)
            self._refuse_columns(row, f"there is no column '{words}' for the input", variable.name, candidates[0], known)
        return column

    def _missing(self, row: Row, target: str, column: str, known: tuple[str, ...]) -> NoReturn:
        place = row.where.file if not row.typed else f"{row.where.file}:{row.where.line}"
        near = did_you_mean(column, known)
        right = f"{near} " if near else ""
        self.problems.at(
            self.at, f"'map' takes {target} from {column!r}, which {place} does not have", f"{right}its columns are {_names(known)}"
        )
        raise _Unusable

    def _refuse_columns(self, row: Row, what: str, target: str, wanted: str, known: tuple[str, ...]) -> NoReturn:
        near = did_you_mean(wanted, known)
        right = f"name it with map: {{{target}: <column>}}; the columns are {_names(known)}" + (f"; {near}" if near else "")
        where = row.where if row.typed else Where(row.where.file, 1)
        self.problems.at(where, what, right)
        raise _Unusable

    def _check_single_assertion(self, row: Row, known: tuple[str, ...]) -> None:
        more = [name for name in known if name.startswith(EXPECTED) and name != EXPECTED]
        if more:
            where = row.where if row.typed else Where(row.where.file, 1)
            self.problems.at(
                where,
                f"several assertions a row ({', '.join(more)}) can't be read yet",
                f"keep only {EXPECTED}, or name the output with 'map'",
            )
            raise _Unusable

    def _input(self, row: Row, values: Mapping[str, Any], column: str | None, variable: Variable) -> str:
        if column is None:
            return variable.default or ""
        if values[column] is None:
            self._refuse(row, f"{column!r} is null", "write a text")
        return self._scalar(row, values[column], repr(column))

    def _scalar(self, row: Row, value: Any, what: str) -> str:
        if isinstance(value, dict | list):
            self._refuse(row, f"{what} is {_kind(value)}", "write a text")
        return written_value(value)

    def _output(self, row: Row, value: Any, assertions: bool) -> tuple[str, bool, tuple[Check, ...]]:
        if isinstance(value, dict | list):
            return json.dumps(value, ensure_ascii=False), True, ()
        text = written_value(value)
        checks: tuple[Check, ...] = ()
        if assertions:
            text, checks = self._expected(row, text)
        if not row.typed and not text.strip():
            self._refuse(row, "the output is empty", "write the expected output")
        if self.json_outputs:
            return *self._json_text(row, text), checks
        return text, False, checks

    def _json_text(self, row: Row, text: str) -> tuple[str, bool]:
        try:
            value = parse_json(text)
        except _Refused as error:
            self._refuse(row, f"the output can't be read as JSON: {error}", "write it plainly")
        except NotJson:
            return text, False  # judged against the contract, with its reasons
        # A scalar stays as written: 1.10 is JSON text already.
        return (json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else text.strip()), True

    def _expected(self, row: Row, cell: str) -> tuple[str, tuple[Check, ...]]:
        found = assertion(cell.strip())
        if found is None:
            return cell, ()
        name, value = found
        if name not in ("contains", "equals"):
            self._refuse(
                row,
                f"the assertion {name!r} can't be read yet",
                "use 'contains:', 'equals:' or the plain output, or name the output with 'map'",
            )
        if not value:
            self._refuse(row, f"the assertion {name!r} names no text", f"write '{name}: <text>'")
        return value, (Check("contains", value),) if name == "contains" else ()

    def _tags(self, row: Row, value: Any) -> tuple[str, ...]:
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = parse_json(value)
            except NotJson as error:
                self._refuse(row, f"the tags can't be read: {error}", 'write a, b or ["a", "b"]')
        if value is None:
            return ()
        tags = value if isinstance(value, list) else re.split(r"[,\s]+", self._scalar(row, value, "the tags"))
        texts = [self._scalar(row, tag, "a tag").strip() for tag in tags]
        return tuple(dict.fromkeys(text for text in texts if text))

    def _refuse(self, row: Row, what: str, right: str) -> NoReturn:
        self.problems.at(row.where, what, right)
        raise _Unusable


def _names(columns: Sequence[str]) -> str:
    listed = ", ".join(shorten(column) for column in columns[:MOST_MISTAKES])
    return listed + (", …" if len(columns) > MOST_MISTAKES else "")


# --- sides and repetitions --------------------------------------------------------------------------------


def split_side(inputs: Mapping[str, str], seed: int, examples: float = 0.6, holdout: float = 0.4) -> Literal["examples", "holdout"] | None:
    """The side that a row of a split file is on; ``None`` when the parts leave it out.

    It depends on nothing but the seed and the normalised input, so equal inputs share a side and no row moves another.
    """
    place = canonical.fraction("split", str(seed), canonical.input_digest(inputs))
    if place < examples:
        return "examples"
    return "holdout" if place < examples + holdout else None


class Deduped(NamedTuple):
    """The rows that stay, in their order, and in words what was found."""

    visible: list[Example]
    holdout: list[Example]
    notes: tuple[str, ...]


def dedupe(visible: Iterable[Example], holdout: Iterable[Example], problems: Problems) -> Deduped:
    """Takes out what repeats. Inline rows (those of ``problems.file``) that repeat or contradict are added to ``problems``.

    Rows of data files: an exact duplicate leaves its side; a holdout row whose input is visible, or stands in the
    holdout already, leaves the holdout; contradictions and near duplicates are counted.
    """
    finder = _Repeats(problems)
    shown_rows = finder.side(visible, sealed=False)
    sealed_rows = finder.side(holdout, sealed=True)
    finder.near(shown_rows, sealed_rows)
    return Deduped([row for _, row in shown_rows], [row for _, row in sealed_rows], finder.notes())


_InputKey = tuple[tuple[str, str], ...]
_Pair = tuple[Example, Example]
_WORDLESS = re.compile(r"[\W\d_]+")


class _Repeats:
    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.visible: dict[_InputKey, list[Example]] = {}
        self.equal: list[_Pair] = []
        self.leaving: list[_Pair] = []
        self.contradictions: list[_Pair] = []
        self.alike: list[_Pair] = []
        self.alike_across: list[_Pair] = []

    def side(self, rows: Iterable[Example], *, sealed: bool) -> list[tuple[_InputKey, Example]]:
        seen: dict[_InputKey, list[Example]] = {} if sealed else self.visible
        kept = []
        for row in rows:
            key = tuple(sorted((name, canonical.normalise(text)) for name, text in row.inputs.items()))
            if sealed and key in self.visible:
                self._repeats(row, self.visible[key], self.leaving, "is visible")
                continue
            repeats = key in seen and self._repeats(row, seen[key], self.equal, "stands here")
            # Two holdout cases of one input would share their case id, so a contradiction leaves the holdout as well.
            if not repeats and not (sealed and key in seen):
                seen.setdefault(key, []).append(row)
                kept.append((key, row))
        return kept

    def _repeats(self, row: Example, earlier: list[Example], found: list[_Pair], what: str) -> bool:
        """Whether ``row`` equals one of the ``earlier`` rows of the same input. Notes or reports what it does."""
        same = next((other for other in earlier if _same_output(other, row)), None)
        other = same or earlier[0]
        if row.where.file == self.problems.file == other.where.file:
            if same:
                self.problems.at(row.where, f"this input {what} already{_line_of(other)}", "leave one of them out")
            else:
                self.problems.at(row.where, f"this input has another output{_line_of(other)}", "keep the right one")
            return same is not None
        if same is None:
            self.contradictions.append((row, other))
        if same is not None or found is self.leaving:
            found.append((row, other))
        return same is not None

    def near(self, shown_rows: list[tuple[_InputKey, Example]], sealed_rows: list[tuple[_InputKey, Example]]) -> None:
        """Finds rows that differ in punctuation and digits only; cheap, so rewordings are not found."""
        first: dict[_InputKey, tuple[_InputKey, Example, bool]] = {}
        marked = [*((key, row, False) for key, row in shown_rows), *((key, row, True) for key, row in sealed_rows)]
        for key, row, sealed in marked:
            words = tuple((name, _WORDLESS.sub(" ", text).strip()) for name, text in key)
            if not any(text for _, text in words):
                continue
            other_key, other, other_sealed = first.setdefault(words, (key, row, sealed))
            if other_key != key:
                (self.alike if sealed == other_sealed else self.alike_across).append((row, other))

    def notes(self) -> tuple[str, ...]:
        but = "but for punctuation and digits"
        found = (
            (self.equal, "exact duplicate left out", "exact duplicates left out"),
            (self.leaving, "holdout row left out because its input is visible", "holdout rows left out because their inputs are visible"),
            (self.contradictions, "contradiction (same input, two outputs)", "contradictions (same input, two outputs)"),
            (self.alike_across, f"holdout row equal to a visible one {but}", f"holdout rows equal to visible ones {but}"),
            (self.alike, f"row equal to another {but}", f"rows equal to others {but}"),
        )
        return tuple(f"{len(pairs)} {one if len(pairs) == 1 else many}: {_listed(pairs)}" for pairs, one, many in found if pairs)


def _form(value: Any) -> Any:
    """A JSON value that equals another only where JSON's does: in Python ``1`` equals ``true``."""
    if isinstance(value, dict):
        return {name: _form(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_form(item) for item in value]
    return (isinstance(value, bool), value)


def _same_output(one: Example, other: Example) -> bool:
    if one.output == other.output:
        return True
    if one.json and other.json:
        return bool(_form(json.loads(one.output)) == _form(json.loads(other.output)))
    return canonical.normalise(one.output) == canonical.normalise(other.output)


def place(row: Example) -> str:
    """Where a row stands, for a person."""
    return f"{row.where.file}:{row.where.line}" if row.where.line else row.where.path or row.where.file or f"example {row.id}"


def _line_of(row: Example) -> str:
    place = f"line {row.where.line}" if row.where.line else row.where.path
    return f" ({place})" if place else ""


def _listed(pairs: list[_Pair]) -> str:
    listed = "; ".join(f"{place(row)} and {place(other)}" for row, other in pairs[:_LISTED])
    return listed + ("; …" if len(pairs) > _LISTED else "")
