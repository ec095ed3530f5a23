"""Secrets leave text before it is stored or shown, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptsmith.redact import MASK, has_secret, redact

# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "openai": "sk-" + "abcDEF0123456789abcd",
    "openai project": "sk-proj-" + "a1B2c3D4e5F6g7H8_-i9J0",
    "anthropic": "sk-ant-" + "api03-abcdefghijklmnop-QRSTUV",
    "github": "ghp_" + "a" * 36,
    "github fine-grained": "github_pat_" + "b" * 40,
    "gitlab": "glpat-" + "c" * 20,
    "slack": "xoxb-" + "1234567890-abc",
    "aws": "AKIA" + "ABCDEFGHIJKLMNOP",
    "google": "AIza" + "d" * 35,
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA " + "PRIVATE KEY-----",
    "cut private key": "-----BEGIN " + "PRIVATE KEY-----\nMIIEow\nabc",
}
AROUND = [("", ""), ("key=", " and more"), ("(", ")"), ('{"text": "', '"}'), ("Schlüssel: ", ".\nNext line")]


@pytest.mark.parametrize("name", sorted(SECRETS))
@pytest.mark.parametrize(("before", "after"), AROUND)
def test_a_secret_is_taken_out_wherever_it_stands(name: str, before: str, after: str) -> None:
    secret = SECRETS[name]
    if name.startswith("cut"):
        after = ""  # a key without an end takes the rest of the text with it
    clean = redact(before + secret + after)
    assert secret not in clean
    assert clean == before + MASK + after
    assert has_secret(before + secret + after)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer s3cr3t-token", "s3cr3t-token"),
        ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("X-API-Key: 0123456789", "0123456789"),
        ('{"Authorization": "Bearer s3cr3t-token", "accept": "*/*"}', "s3cr3t-token"),
        ("{'x-api-key': '0123456789'}", "0123456789"),
        ("postgres://user:hunter2@db.example/app", "hunter2"),
        ("https://:hunter2@proxy.example:8080", "hunter2"),
    ],
)
def test_credentials_in_headers_and_urls_are_taken_out(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert MASK in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "I love this product, 10/10!",
        "risk-management-for-everybody-everywhere",
        "see https://example.com:8080/a@b and mail me@example.com",
        "the skirt is sk-short",
        "AKIA is a village; ghp_ is a prefix",
        "what is an authorization bearer?",
        "0123456789abcdef" * 4,
    ],
)
def test_ordinary_text_passes_unchanged(text: str) -> None:
    assert redact(text) == text
    assert not has_secret(text)


def test_the_rest_of_a_json_header_dump_stays() -> None:
    assert redact('{"Authorization": "Bearer s3cr3t", "accept": "*/*"}') == f'{{"Authorization": "Bearer {MASK}", "accept": "*/*"}}'


@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from(sorted(SECRETS.values()))), max_size=6).map(" ".join))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once
    assert not has_secret(once)
