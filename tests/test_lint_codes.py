"""``promptsmith lint``: every code finds what its page says, clean prompts have none, fixes change nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.canonical import normalise
from promptsmith.compiler.lint import RULES
from promptsmith.compiler.lint.case import Case, case_of_text
from promptsmith.compiler.lint.check import check
from promptsmith.compiler.lint.findings import FAULTS, chosen
from promptsmith.compiler.lint.fix import applied, edits_for
from promptsmith.compiler.lint.safety import is_iban
from promptsmith.config import Project
from promptsmith.contract import Contract, JsonShape, Labels, TextShape
from promptsmith.errors import InputError
from promptsmith.evals.suite import dev_rows
from promptsmith.task import Task, load_task

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "lint"
Invoke = Callable[..., Result]
MakeProject = Callable[..., Project]

LABELS = Contract(Labels(("positive", "negative", "neutral")))
TEXT = Contract(TextShape(max_words=45))
GOOD = "Decide how the customer feels. Answer with one of these labels and nothing else:\n- positive\n- negative\n- neutral\n"
GOOD_TEXT = "Rewrite the text in plain English. Use at most 45 words.\n"
SENTIMENT = "task: Classify the sentiment of a message.\noutput: [positive, negative, neutral]\n"
HAND = f"{SENTIMENT}prompt: |\n" + "".join(f"  {line}\n" for line in GOOD.splitlines())


def findings(text: str, contract: Contract | None = None, **more: Any) -> dict[str, list[int]]:
    """Lines by fault's name; without a contract the text is judged as one of which nothing is known."""
    known: dict[str, Any] = {"declared": False} if contract is None else {"contract": contract}
    found: dict[str, list[int]] = {}
    for one in check(Case(system=text, **known, **more), chosen("", "")):
        found.setdefault(one.code, []).append(one.line)
    return found


def block(*pairs: tuple[str, str]) -> str:
    rows = [json.dumps({"input": given, "output": output}) for given, output in pairs]
    return "\n".join(["# Examples", "<examples>", *rows, "</examples>", ""])


def data(result: Result) -> Any:
    return json.loads(result.stdout)


def codes(result: Result) -> set[str]:
    return {row["code"] for subject in data(result)["subjects"] for row in subject["findings"]}


# --- codes and their pages --------------------------------------------------------------------------------


def test_codes_are_stable_and_grouped() -> None:
    """A code once given is never another fault's. Only add to this list."""
    assert " ".join(f"{fault.code}={fault.name}" for fault in FAULTS) == (
        "PS101=missing-label PS102=missing-key PS103=foreign-label PS104=foreign-key PS105=foreign-limit PS106=asks-to-explain "
        "PS107=asks-for-markdown PS108=foreign-value PS109=foreign-answer PS110=contradiction "
        "PS201=broken-example PS202=misspelt-output PS203=examples-disagree PS204=example-against-instruction PS205=label-imbalance "
        "PS301=holdout-text PS302=dev-text "
        "PS401=placeholder PS402=meta-chatter PS403=empty PS404=is-json PS405=echo PS406=other-language "
        "PS501=secret PS502=personal-data PS503=open-input "
        "PS601=volatile PS602=below-cache-minimum PS603=far-above-cache-minimum PS604=rejected-parameter PS605=too-long"
    )
    assert {path.stem for path in PAGES.glob("PS*.md")} == {fault.code for fault in FAULTS}


SECTIONS = ["What it finds", "Why it matters", "Fails", "Passes", "How to fix"]


def example(page: str, section: str, folder: Path) -> Path:
    """The file that a page's example is, or that its Python writes."""
    part = page.partition(f"## {section}\n")[2].partition("\n## ")[0]
    found = re.search(r"```(\w+)\n(.*?)```", part, re.DOTALL)
    assert found is not None
    folder.mkdir()
    if found[1] == "python":
        subprocess.run([sys.executable, "-c", found[2]], cwd=folder, check=True)
    else:
        (folder / {"yaml": "task.yaml", "text": "prompt.txt"}[found[1]]).write_text(found[2], "utf-8")
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_the_examples_of_a_page_fail_and_pass(fault: Any, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside any project. What passes may still be too short to be cached; it has no error at all."""
    monkeypatch.chdir(tmp_path)
    page = (PAGES / f"{fault.code}.md").read_text("utf-8")
    assert page.startswith(f"# {fault.code} {fault.name}\n\n{fault.severity.capitalize()}. {fault.about}")
    assert re.findall(r"^## (.*)", page, re.MULTILINE) == SECTIONS
    assert fault.code in codes(invoke("lint", "--json", example(page, "Fails", tmp_path / "fails"), code=1))
    good = example(page, "Passes", tmp_path / "passes")
    invoke("lint", good, "--select", fault.code)
    errors = ",".join(other.code for other in FAULTS if other.severity == "error")
    invoke("lint", good, "--select", errors)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.fixable], ids=lambda fault: fault.code)
def test_the_example_of_a_fixable_code_is_mended(fault: Any, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = example((PAGES / f"{fault.code}.md").read_text("utf-8"), "Fails", tmp_path / "fails")
    fixed = data(invoke("lint", "--json", "--fix", path))["subjects"][0]["fixed"]
    assert {row["code"] for row in fixed} == {fault.code}
    invoke("lint", path)


# --- clean prompts ----------------------------------------------------------------------------------------


def clean_prompts() -> list[tuple[str, Contract]]:
    """Those of the draft lint's test."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("clean_prompts", Path(__file__).with_name("test_lint.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clean: list[tuple[str, Contract]] = module.CLEAN
    return clean


@pytest.mark.parametrize("declared", [True, False])
def test_clean_prompts_have_no_finding_of_any_severity(declared: bool) -> None:
    clean = clean_prompts()
    assert len(clean) >= 30
    for text, contract in clean:
        assert findings(text, contract if declared else None) == {}, text


@pytest.mark.parametrize("name", ["sentiment", "intent", "support/triage", "rewrite/plain-english"])
@pytest.mark.parametrize("model", ["builtin/nearest", "openai/gpt-6-luna", "anthropic/claude-haiku-5-5"])
def test_the_template_of_every_shipped_task_is_clean(name: str, model: str, make_project: MakeProject, invoke: Invoke) -> None:
    """And with them the repository's own tasks, dev and holdout rows included."""
    text = (ROOT / "evals" / f"{name}.yaml").read_text("utf-8")
    held = {
        f"{name.rpartition('/')[0]}/data/{path.name}".lstrip("/"): path.read_text("utf-8")
        for path in (ROOT / "evals" / name).parent.glob("data/*")
    }
    project = make_project({name: text}, held, f'[models]\nproduction = "{model}"\n')
    invoke("compile", name, project=project)
    invoke("lint", name, "--ignore", "PS602,PS603", project=project)


def test_drafts_are_judged_by_the_same_rules_as_before() -> None:
    assert [rule.__name__ for rule in RULES] == [
        "missing_names", "foreign_labels", "foreign_keys", "foreign_limits", "asks_for_more", "placeholders", "meta_chatter", "secrets",
        "volatile_text", "not_a_prompt", "too_long",
    ]  # fmt: skip


# Prompts as people write them, with what could be mistaken for a fault.
REAL = [
    """You are a customer support assistant for a telecom company.
Answer the customer's question using only the information in the knowledge base.

## Guidelines
1. Be polite and professional. Greet the customer by name if it is given.
2. If the answer is not in the knowledge base, say "I don't know" and offer to connect them to a human agent.
3. Never reveal internal notes, prices of competitors or personal data of other customers.
4. Keep answers short: two or three sentences are usually enough, never more than 120 words.
5. Format phone numbers as they are in the knowledge base. Our hotline is 0800 123 4567, open Mon-Fri 8:00-18:00.

If the customer is angry, apologise first. Do not promise refunds; explain the refund process instead.
For security reasons, never ask for a password or PIN.
""",
    """Extract the invoice fields from the text.
Return a JSON object with keys "number", "date" (YYYY-MM-DD), "total" and "currency" (ISO 4217, e.g. EUR).

- Amounts use a dot as decimal separator, without thousands separators: 1234.50
- If a field is missing, use null. Do not invent values.
- Dates such as 3 May or 03/05 without a year: leave the year out of the calculation and return null.
- Return only the JSON object, no markdown, no explanation.
""",
    """Summarise the meeting transcript for people who were not there.

Structure:
- Decisions: what was decided and by whom
- Open questions: at most 5 bullet points
- Next steps: owner, task, date

Write in the language of the transcript. Use plain language; avoid jargon. The summary should have between 100 and 250 words.
Do not include small talk. If nothing was decided, write "No decisions were made."
""",
    """Translate the user's message from English to German. Keep the tone.
Keep names, numbers, units, URLs (https://example.com/a?b=1) and code in backticks like `npm run build` unchanged.
Use "Sie" unless the text is clearly informal. Write nothing but the translation.
If the text is already in German, answer with the text as it is.
""",
    """You write SQL for PostgreSQL 16. Tables:
- orders(id bigint, customer_id bigint, created_at timestamptz, total numeric)
- customers(id bigint, name text, country char(2))

Answer with one SQL statement and nothing else. Use explicit JOINs, never SELECT *. Use lower case for keywords.
Example:
Question: How many orders were placed in 2024?
Answer: select count(*) from orders where created_at >= '2024-01-01' and created_at < '2025-01-01'
""",
    """Judge whether the answer is supported by the document. Think about each claim separately.
Score from 1 to 5, where 1 means not supported and 5 fully supported.
Explain your score in one sentence, then give the score on a line of its own.
""",
    """# Role
You are a senior Python reviewer.

# Task
Review the diff that the user sends. Point out bugs, security issues and unclear names. Do not comment on formatting; black does that.

# Output
A list of findings, one a line: `file:line: severity: text`. Severity is one of error, warning, info.
If there is nothing to say, answer "LGTM".
""",
]
TICKETS = Contract(Labels(("refund", "delivery", "technical problem", "other")))
TICKET_PROMPT = """Classify the support ticket. Answer with exactly one of these labels, in lower case:

- refund: the customer wants money back, even if they don't say "refund"
- delivery: where is my parcel, wrong address, damaged in transit
- technical problem: the product or the app does not work
- other: everything else, including thanks, spam and job applications

If two labels fit, choose the one that the customer asks us to act on. If the ticket is empty, answer other.
A customer who writes "cancel my order" before shipping is a refund. Ignore signatures, disclaimers and quoted mails.
Do not answer the customer. Return only the label, as a single word or phrase; write it in plain text.
"""


@pytest.mark.parametrize("text", REAL)
def test_a_real_prompt_has_no_finding(text: str) -> None:
    assert findings(text) == {}


def test_a_real_prompt_with_labels_has_no_finding() -> None:
    assert findings(TICKET_PROMPT, TICKETS) == {}


# --- single checks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Answer in JSON.",
        "Answer with a full sentence.",
        "Write the label in capital letters.",
        "Answer in English. Reply in German.",
    ],
)
def test_an_instruction_against_the_contract_or_another(line: str) -> None:
    assert "contradiction" in findings(f"{GOOD}{line}\n", LABELS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Explain your answer.", "Answer with a single word."),
        ("Give a short reason.", "Write the result and nothing else."),
        ("Use markdown.", "Write no markdown."),
        ("Answer with a JSON object.", "Use plain text only."),
        ("Use at least 30 words.", "Use at most 20 words."),
        ("Write exactly two sentences.", "Write at least three sentences."),
    ],
)
def test_two_instructions_at_odds(one: str, other: str) -> None:
    assert findings(f"{one}\nRead it.\n{other}\n") == {"contradiction": [3]}
    assert findings(f"{other}\n{one}\n") == {"contradiction": [2]}
    assert findings(f"{one}\n") == {} == findings(f"{other}\n")


@pytest.mark.parametrize(
    "text",
    [
        "The title has at most 8 words.\nThe body has at least 50 words.\n",
        "If the message is German, answer in German.\nOtherwise answer in English.\n",
        "Explain legal terms in everyday words.\nDo not explain the title.\n",
        "Do not use markdown.\nNever answer in JSON.\n",
    ],
)
def test_what_only_looks_like_a_contradiction(text: str) -> None:
    assert findings(text) == {}


@pytest.mark.parametrize(
    "line",
    [
        "Classify it as positive, negative or mixed.",
        "The answer is positive, neutral, negative, or unclear.",
        "Choose from positive, negative, neutral, mixed.",
        "* positive\n* negative\n* mixed",
    ],
)
def test_a_label_of_no_contract(line: str) -> None:
    assert "foreign-label" in findings(f"{GOOD}{line}\n", LABELS)
    assert findings(f"{GOOD}{line.replace('mixed', 'neutral').replace('unclear', 'neutral')}\n", LABELS) == {}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('If none of them fits, answer "other".', True),
        ("If you are unsure, say unknown.", True),
        ("When in doubt, return 'mixed' instead.", True),
        ("If none of them fits, choose the nearest.", False),
        ('If you are unsure, answer "neutral".', False),
        ('Customers who say "thank you" are positive.', False),
        ('Never answer "other".', False),
    ],
)
def test_an_order_to_answer_with_no_label(line: str, found: bool) -> None:
    assert ("foreign-answer" in findings(f"{GOOD}{line}\n", LABELS)) is found
    others = Contract(Labels(("positive", "negative", "neutral"), allow_other=True))
    assert "foreign-answer" not in findings(f"{GOOD}{line}\n", others)


@pytest.mark.parametrize(
    "written",
    [
        block(("It broke.", "angry")),
        '{"input": "It broke.", "output": "angry"}\n',
        "Example:\nInput: It broke.\nOutput: angry\n",
        "Message: It broke.\nSentiment: angry\n\nMessage: I love it.\nSentiment: positive\n",
        '"It broke." -> angry\n',
        '- "It broke." => angry\n',
    ],
)
def test_an_example_that_breaks_the_contract_however_it_is_written(written: str) -> None:
    assert "broken-example" in findings(GOOD + written, LABELS)
    assert findings(GOOD + written.replace("angry", "negative"), LABELS) == {}


def test_a_form_is_no_example() -> None:
    assert findings(f"{GOOD}Input: what the customer wrote\nOutput: the label\n", LABELS) == {}


def test_an_example_of_json_is_checked_by_its_schema() -> None:
    shape = JsonShape(json.dumps({"type": "object", "properties": {"queue": {"enum": ["billing", "delivery"]}}, "required": ["queue"]}))
    prompt = (
        'Answer with a JSON object; "queue" is billing or delivery.\n<examples>\n{"input": "a", "output": {"queue": "%s"}}\n</examples>\n'
    )
    assert findings(prompt % "billing", Contract(shape)) == {}
    assert findings(prompt % "returns", Contract(shape)) == {"broken-example": [3]}


def test_a_line_of_the_block_that_is_no_example_has_its_line() -> None:
    text = GOOD + block(("It broke.", "negative")).replace("</examples>", "oops\n</examples>")
    assert findings(text, LABELS) == {"broken-example": [8]}


@pytest.mark.parametrize(
    ("rule", "output"),
    [
        ("Use at most 3 words.", "a very long answer"),
        ("Write exactly one sentence.", "One. Two."),
        ("Use no semicolons.", "one; two"),
        ("Never use the word 'hereby'.", "You hereby agree"),
        ("Avoid emojis.", "fine \U0001f600"),
    ],
)
def test_an_example_against_an_instruction(rule: str, output: str) -> None:
    text = f"Shorten the text. {rule}\nExample:\nInput: some text\nOutput: {output}\n"
    assert findings(text) == {"example-against-instruction": [4]}
    assert findings(text.replace(output, "fine")) == {}


def test_a_list_of_labels_in_a_text_without_contract() -> None:
    text = "Classify it as one of:\n- good\n- bad\n" + block(("x", "good"), ("y", "ugly"))
    assert findings(text) == {"example-against-instruction": [7]}
    assert findings(text.replace("ugly", "bad")) == {}


def test_imbalance_counts_labels_that_are_not_shown() -> None:
    many = [(f"text {number}", "positive") for number in range(4)]
    assert "label-imbalance" in findings(GOOD + block(*many), LABELS)
    assert "label-imbalance" in findings("Classify it.\n" + block(*many, *many[:0], ("u", "negative"), ("v", "neutral")))
    assert findings(GOOD + block(*many[:3], ("u", "negative"), ("v", "neutral")), LABELS) == {}


@pytest.mark.parametrize(
    "text",
    [
        "maria.lopez@acme.org", "j.smith+work@mail.acme.co.uk", "+49 30 901820", "+1 (212) 736-5000", "(212) 736-5000", "212-736-5000",
        "030 / 901820", "06 12 34 56 78", "GB82 WEST 1234 5698 7654 32", "DE89370400440532013000",
    ],
)  # fmt: skip
def test_personal_data_is_found_and_not_repeated(text: str) -> None:
    for system in (f"Hard cases go to {text}.\n", GOOD + block((f"Call me: {text}", "neutral"))):
        (found,) = check(Case(system=system, declared=False), chosen("PS502", ""))
        assert text not in found.what


@pytest.mark.parametrize(
    "text",
    [
        "support@acme.org", "name@example.com", "@production", "user@", "order S-12087", "invoice 2026-0012-3344", "1,200,000 entries",
        "0.25 or 0,5", "3.11.4", "ISBN 978-3-16-148410-0", "10-12 and 14-16", "2024 2025 2026", "0800 555 0142", "DE88370400440532013000",
        "100 000 000",
        "12345678901234567890", "room 212-73", "12:30-14:45", "+5 points", "GB 2026", "192.168.100.200", "on 31.12.2026",
    ],
)  # fmt: skip
def test_what_is_no_personal_data(text: str) -> None:
    assert "personal-data" not in findings(f"It says {text} there.\n")


@given(st.integers(10**16, 10**18 - 1))
def test_an_iban_is_told_by_its_check_digits(number: int) -> None:
    account = str(number).zfill(18)
    check_digits = 98 - int(f"{account}131400") % 97
    assert is_iban(f"DE{check_digits:02d}{account}")
    assert not is_iban(f"DE{(check_digits + 1) % 97:02d}{account}")


@pytest.mark.parametrize(
    "line",
    [
        "Today is Monday.", "Written on 2026-11-21.", "It is 14:32.", "Made at 14:32:05.", "Nov 21, 2026", "2026/11/21", "Run-id: 8f3k2a",
        "Commit da39a3ee5e6b4b0d3255bfef95601890afd80709", "1795260000",
    ],
)  # fmt: skip
def test_what_ages_is_found_in_instructions_and_not_in_examples(line: str) -> None:
    assert "volatile" in findings(f"{line}\nAnswer.\n")
    assert "volatile" not in findings(GOOD + block((line, "neutral")), LABELS)
    assert "volatile" not in findings(f"{GOOD}Example:\nInput: {line}\nOutput: neutral\n", LABELS)


def test_opening_hours_do_not_age() -> None:
    assert findings("The shop is open from 9:00 to 17:30, on Saturdays until 14:00.\n") == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Translate {{text}} into German.\n", True),
        ("Translate:\n{text}\nKeep numbers.\n", True),
        ("Translate:\n<text>\n{{text}}\n</text>\nKeep numbers.\n", False),
        ("Translate <text>{{text}}</text> into German.\n", False),
        ('Translate:\n"""\n${text}\n"""\nKeep numbers.\n', False),
        ("Translate:\n```\n{{text}}\n```\n", False),
    ],
)
def test_a_place_for_input_needs_a_fence(text: str, found: bool) -> None:
    assert ("open-input" in findings(text)) is found
    assert "placeholder" in findings(text)


def test_template_logic_is_a_placeholder() -> None:
    assert findings("Answer.\n{% if formal %}Be formal.{% endif %}\n") == {"placeholder": [2, 2]}


# --- texts of cases ---------------------------------------------------------------------------------------

ROWS = [f"Message number {number} tells how the parcel {number} came on day {number} of the month." for number in range(40)]
MANY = (
    SENTIMENT
    + "holdout:\n  - {input: The hinge of the left door came off after one week of use., output: negative, id: h-1}\n"
    + "examples:\n"
    + "".join(f"  - {{input: {json.dumps(row)}, output: neutral, id: v-{number}}}\n" for number, row in enumerate(ROWS))
)


@pytest.fixture
def many(tmp_path: Path) -> Task:
    path = tmp_path / "many.yaml"
    path.write_text(MANY, "utf-8")
    return load_task(path)


def judged(text: str, task: Task) -> dict[str, str]:
    return {one.code: one.what for one in check(case_of_text(text, task, Project(Path.cwd())), chosen("PS3", ""))}


def test_sealed_text_is_found_by_eight_words_in_a_row_and_never_shown(many: Task) -> None:
    sealed = many.holdout[0].inputs["input"]
    words = normalise(sealed).rstrip(".").split()
    found = judged(f"{GOOD}Note: {' '.join(words[2:10])}\n", many)
    assert "h-1" in found["holdout-text"]
    assert " ".join(words[2:6]) not in found["holdout-text"]
    assert judged(f"{GOOD}Note: {' '.join(words[2:9])}\n", many) == {}
    assert "h-1" in judged(GOOD + block((sealed, "negative")), many)["holdout-text"]


def test_dev_text_is_found_and_compile_text_is_free(many: Task) -> None:
    dev = {row.id: row.inputs["input"] for row in dev_rows(many.examples, 0)}
    assert 8 <= len(dev) <= 32
    free = next(row.inputs["input"] for row in many.examples if row.id not in dev)
    name, text = next(iter(dev.items()))
    assert f"{name} " in judged(f"{GOOD}{text}\n", many)["dev-text"]
    assert f"{name} " in judged(GOOD + block((text, "neutral")), many)["dev-text"]
    assert judged(f"{GOOD}{free}\n{block((free, 'neutral'))}", many) == {}


def test_a_compiled_prompt_may_show_dev_rows_below_o2(make_project: MakeProject, invoke: Invoke) -> None:
    project = make_project({"t": MANY})
    invoke("compile", "t", project=project)
    invoke("lint", "t", "--select", "PS3", project=project)


# --- the model --------------------------------------------------------------------------------------------


def of_model(model: str, lines: int = 0, code: int = 0) -> str:
    return (
        HAND.replace("prompt: |", f"models: {{production: {model}}}\nprompt: |")
        + "  Judge what the writer feels and not what happened.\n" * lines
    )


@pytest.mark.parametrize(
    ("model", "few", "some", "many"),
    [
        ("openai/gpt-6-luna", 0, 120, 900),  # cached from 1,024 tokens
        ("anthropic/claude-haiku-5-5", 0, 60, 400),  # from 512
        ("anthropic/claude-haiku-4-5", 120, 350, 3600),  # from 4,096
    ],
)
def test_the_length_is_held_against_what_the_provider_caches(
    model: str, few: int, some: int, many: int, tmp_path: Path, invoke: Invoke
) -> None:
    path = tmp_path / "task.yaml"
    for lines, expected in ((few, {"PS602"}), (some, set()), (many, {"PS603"})):
        path.write_text(of_model(model, lines), "utf-8")
        found = codes(invoke("lint", "--json", path, "--select", "PS602,PS603", code=1 if expected else 0))
        assert found == expected, lines


@pytest.mark.parametrize("model", ["builtin/nearest", "local/llama"])
def test_of_other_servers_nothing_is_said(model: str, make_project: MakeProject, invoke: Invoke) -> None:
    settings = '[endpoints.local]\nprotocol = "openai"\nbase_url = "http://127.0.0.1:9"\n'
    invoke("lint", "t", project=make_project({"t": of_model(model)}, config=settings))


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("{use: anthropic/claude-haiku-5-5, temperature: 0}", ["temperature"]),
        ("{use: anthropic/claude-haiku-5-5, temperature: 0, top_k: 5, effort: low}", ["temperature", "top_k"]),
        ("{use: anthropic/claude-haiku-5-5, effort: minimal}", ["effort"]),
        ("{use: openai/gpt-5, temperature: 0}", ["temperature"]),
        ("{use: openai/gpt-6-luna, temprature: 0}", ["temprature"]),
        ("{use: openai/gpt-6-luna, max_tokens: 0}", ["max_tokens"]),
        ("{use: openai/gpt-6-luna, temperature: 0, effort: low, max_tokens: 99}", []),
        ("builtin/nearest", []),
    ],
)
def test_parameters_are_refused_as_a_call_would_be(model: str, found: list[str], make_project: MakeProject, invoke: Invoke) -> None:
    result = invoke("lint", "t", "--json", "--select", "PS604", project=make_project({"t": of_model(model)}), code=bool(found))
    told = [row["what"] for subject in data(result)["subjects"] for row in subject["findings"]]
    assert len(told) == len(found)
    for name in found:
        assert any(name in what for what in told)


def test_the_token_budget_can_be_set(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "long.txt"
    path.write_text("Judge what the customer feels. " * 100)
    invoke("lint", path)
    assert codes(invoke("lint", "--json", "--tokens", "500", path, code=1)) == {"PS605"}


def test_examples_have_a_budget_of_their_own(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "t.yaml"
    rows = [(f"message {number}", ["positive", "negative", "neutral"][number % 3]) for number in range(30)]
    indented = "".join(f"  {line}\n" for line in block(*rows).splitlines())
    path.write_text(HAND + indented)
    invoke("lint", path)
    path.write_text(f"compile: {{example_tokens: 100}}\n{HAND}{indented}")
    assert codes(invoke("lint", "--json", path, code=1)) == {"PS605"}


# --- the command ------------------------------------------------------------------------------------------

CHATTY = "Here is the system prompt:\n\nAnswer in one word.   \r\n\tSecond line.\n\nI hope this helps!\n"


def test_a_text_file_needs_no_project(tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("Answer.\nCompany: [INSERT NAME]\n")
    result = invoke("lint", "p.txt", code=1)
    assert result.stdout == "p.txt:2: error PS401 placeholder: '[INSERT NAME]' is a placeholder that nothing fills\n"
    assert data(invoke("lint", "p.txt", "--json", code=1)) == {
        "subjects": [
            {
                "subject": "p.txt",
                "findings": [
                    {
                        "code": "PS401",
                        "name": "placeholder",
                        "severity": "error",
                        "line": 2,
                        "what": "'[INSERT NAME]' is a placeholder that nothing fills",
                    }
                ],
                "fixed": [],
            }
        ],
        "errors": [],
    }


def test_select_and_ignore(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "p.txt"
    path.write_text("Sure! Write to maria.lopez@acme.org about {{text}}.\n")
    assert codes(invoke("lint", "--json", path, code=1)) == {"PS401", "PS402", "PS502", "PS503"}
    assert codes(invoke("lint", "--json", path, "--select", "PS5", code=1)) == {"PS502", "PS503"}
    assert codes(invoke("lint", "--json", path, "--ignore", "ps5,placeholder", code=1)) == {"PS402"}
    invoke("lint", path, "--select", "PS5", "--ignore", "PS502,open-input")
    wrong = invoke("lint", path, "--select", "PS999", code=2)
    assert "there is no lint code 'PS999'" in wrong.stderr
    assert "did you mean 'meta-chatter'" in invoke("lint", path, "--ignore", "meta-chater", code=2).stderr


def test_a_task_file_tells_lines_of_the_file(make_project: MakeProject, invoke: Invoke) -> None:
    project = make_project({"t": HAND + "  Today is Monday.\n"})
    path = project.evals / "t.yaml"
    at = 1 + path.read_text().splitlines().index("  Today is Monday.")
    for name in ("t", str(path)):
        (row,) = data(invoke("lint", "--json", name, project=project, code=1))["subjects"][0]["findings"]
        assert (row["line"], row["code"]) == (at, "PS601")
    path.write_text(HAND.replace("  - neutral\n", ""))
    (row,) = data(invoke("lint", "--json", "t", project=project, code=1))["subjects"][0]["findings"]
    assert (row["line"], row["code"]) == (3, "PS101")


def test_without_an_argument_production_and_every_own_prompt_are_looked_at(make_project: MakeProject, invoke: Invoke) -> None:
    compiled = f"{SENTIMENT}examples: [{{input: fine, output: positive}}]\n"
    project = make_project({"compiled": compiled, "idle": compiled, "own": HAND, "both": HAND})
    for name in ("compiled", "both"):
        invoke("compile", name, project=project)
        invoke("promote", name, "--force", "--why", "a test", project=project)

    def subjects(code: int = 0) -> list[str]:
        return [Path(one["subject"]).name for one in data(invoke("lint", "--json", project=project, code=code))["subjects"]]

    assert subjects() == ["both.yaml", "compiled@production", "own.yaml"]
    (project.evals / "both.yaml").write_text(HAND + "  Judge the writer.\n")
    assert subjects() == ["both.yaml", "both@production", "compiled@production", "own.yaml"]
    (project.evals / "own.yaml").write_text(HAND + "  TODO\n")
    assert len(subjects(code=1)) == 4
    (project.evals / "idle.yaml").write_text("task: [")
    result = invoke("lint", project=project, code=2)
    assert "idle.yaml" in result.stderr
    assert "PS401" in result.stdout


def test_a_project_with_nothing_to_look_at_says_so(make_project: MakeProject, invoke: Invoke) -> None:
    assert "no prompt is in production here" in invoke("lint", project=make_project({})).stderr


def test_what_is_not_there_is_told(make_project: MakeProject, invoke: Invoke, tmp_path: Path) -> None:
    project = make_project()
    assert "there is no file nope.txt" in invoke("lint", "nope.txt", project=project, code=2).stderr
    assert "did you mean 'sentiment'" in invoke("lint", "sentimint", project=project, code=2).stderr
    assert "has no prompt: of its own" in invoke("lint", project.evals / "sentiment.yaml", project=project, code=2).stderr
    assert "is a folder" in invoke("lint", ".", project=project, code=2).stderr
    (project.evals / "u.yaml").write_text("task: x\nprompt:\n  - a\n")
    assert "u.yaml:3: " in invoke("lint", "u", project=project, code=2).stderr
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "is not UTF-8" in invoke("lint", tmp_path / "latin.txt", code=2).stderr


def test_a_text_file_as_the_prompt_of_a_task(make_project: MakeProject, invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text(GOOD.replace("- neutral\n", ""))
    invoke("lint", path)
    assert codes(invoke("lint", "--json", path, "--task", "sentiment", project=make_project(), code=1)) == {"PS101"}


# --- fixes ------------------------------------------------------------------------------------------------


def test_a_text_file_is_mended_and_keeps_its_other_bytes(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbf" + CHATTY.encode())
    path.chmod(0o640)
    result = invoke("lint", "--fix", path)
    assert path.read_bytes() == b"\xef\xbb\xbfAnswer in one word.   \r\n\tSecond line.\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert "mended" in result.stderr
    assert [one.name for one in tmp_path.glob(".*.txt*")] == []
    before = path.read_bytes()
    invoke("lint", "--fix", path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_task_file_is_mended_in_its_prompt_only(newline: str, make_project: MakeProject, invoke: Invoke) -> None:
    project = make_project({})
    text = (
        "# Last updated: 2026-11-21\n" + SENTIMENT + "prompt: |2-  # by hand\n  Sure, here is the prompt:\n\n  Last updated: 2026-11-21\n"
        + "".join(f"  {line}\n" for line in GOOD.splitlines())
        + "  # Examples\n  <examples>\n"
        + '  {"input": "It \\"broke\\" on 2026-11-21", "output": "Negative."}\n  </examples>\n\n# the end\nserve: {cache: true}\n'
    )  # fmt: skip
    path = project.evals / "t.yaml"
    path.write_bytes(text.replace("\n", newline).encode())
    result = data(invoke("lint", "--json", "--fix", "t", project=project))
    assert {row["code"] for row in result["subjects"][0]["fixed"]} == {"PS202", "PS402", "PS601"}
    wanted = text.replace("  Sure, here is the prompt:\n\n  Last updated: 2026-11-21\n", "").replace('"Negative."', '"negative"')
    assert path.read_bytes() == wanted.replace("\n", newline).encode()
    assert load_task(path).prompt is not None


@pytest.mark.parametrize("written", ['"Sure, here is the prompt:\\n\\n{}"', ">\n  Sure! here it is\n\n  {}"])
def test_a_prompt_that_is_no_block_is_left_alone(written: str, make_project: MakeProject, invoke: Invoke) -> None:
    project = make_project({"t": f"task: x\noutput: text\nprompt: {written.format('Shorten the text.')}\n"})
    path = project.evals / "t.yaml"
    before = path.read_bytes()
    result = invoke("lint", "--fix", "t", project=project, code=1)
    assert path.read_bytes() == before
    assert f"{path.name}:3: error PS402" in result.stdout


def test_a_compiled_prompt_is_never_edited(make_project: MakeProject, invoke: Invoke) -> None:
    chatty = f"{SENTIMENT}prompt: |\n  Here is the prompt:\n" + "".join(f"  {line}\n" for line in GOOD.splitlines())
    project = make_project({"t": chatty})
    invoke("compile", "t", project=project)
    invoke("promote", "t", "--force", "--why", "a test", project=project)
    lock, source = project.lock.read_bytes(), (project.evals / "t.yaml").read_bytes()
    for ref in ("t@latest", "t@production"):
        result = invoke("lint", "--fix", ref, project=project, code=1)
        assert "is compiled and never edited; change evals/t.yaml and compile it again" in result.stderr
    assert (lock, source) == (project.lock.read_bytes(), (project.evals / "t.yaml").read_bytes())


def test_what_mending_brings_to_light_is_mended_too(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "p.txt"
    path.write_text("Last updated: 2026-11-21\nSure, here is the prompt:\nShorten the text.\n")
    invoke("lint", "--fix", path)
    assert path.read_text() == "Shorten the text.\n"


@pytest.mark.parametrize(
    "line",
    [
        '{"output": "Negative.", "input": "It broke."}',
        '{"input": "It \\u0062roke.", "output": "Negative.", "id": 4}',
    ],
)
def test_an_output_that_is_not_last_is_not_respelt(line: str, tmp_path: Path, invoke: Invoke, make_project: MakeProject) -> None:
    path = tmp_path / "p.txt"
    path.write_text(f"{GOOD}{line}\n")
    result = invoke("lint", "--fix", "--json", path, "--task", "sentiment", project=make_project(), code=1)
    assert codes(result) == {"PS202"}
    assert path.read_text() == f"{GOOD}{line}\n"


@pytest.mark.parametrize(
    "line", ["The password is hunter2.", "api_key: abc123def", "Use the access token 'x': no", "The password is never shown."]
)
def test_what_is_called_a_password_and_looks_like_one(line: str) -> None:
    assert ("secret" in findings(f"{line}\n")) is any(char.isdigit() for char in line)


def test_only_selected_codes_are_mended(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "p.txt"
    path.write_text("Sure, here is the prompt:\n\nLast updated: 2026-11-21\nShorten the text.\n")
    invoke("lint", "--fix", "--select", "PS601", path)
    assert path.read_text() == "Sure, here is the prompt:\n\nShorten the text.\n"


@pytest.mark.parametrize(
    "text",
    [
        "Today is 2026-11-21.\nShorten the text.\n",  # the model may need to know
        "Prices hold until 2026-12-31.\nShorten the text.\n",
        "Shorten the text.\nSay that this prompt ensures quality.\nKeep numbers.\n",
        "Sure! Shorten {{text}}.\n",
        "Write to maria.lopez@acme.org.\n",
        "```\n```\n",
    ],
)
def test_what_might_be_meant_is_not_mended(text: str, tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "p.txt"
    path.write_text(text)
    invoke("lint", "--fix", path, code=1)
    assert path.read_text() == text


_PIECES = [
    "Here is the prompt:",
    "Shorten it.",
    "",
    "Last updated: 2026-11-21",
    "I hope this helps!",
    "```",
    "- positive",
    '"It broke." -> Negative.',
    "  x  ",
]


@given(st.lists(st.sampled_from(_PIECES), max_size=8))
def test_a_fix_only_takes_lines_or_respells_labels(lines: list[str]) -> None:
    case = Case(system="\n".join(lines), contract=LABELS)
    names = chosen("", "")
    text = applied(case.system, edits_for(case, check(case, names)))
    rest = iter(lines)
    assert all(any(line in (kept, kept.replace("Negative.", "negative")) for kept in rest) for line in text.split("\n") if line)


@given(st.text(max_size=300))
def test_any_text_can_be_looked_at(text: str) -> None:
    for contract in (LABELS, TEXT):
        case = Case(system=text, contract=contract)
        for one in check(case, chosen("", "")):
            assert 0 <= one.line <= len(text.split("\n"))
            assert one.fault.name == one.code
        applied(text, edits_for(case, check(case, chosen("", ""))))


def test_codes_are_checked() -> None:
    with pytest.raises(InputError, match="PS7"):
        chosen("PS7", "")
    assert chosen("", "PS1,PS2,PS3,PS4,PS5,PS6") == frozenset()
