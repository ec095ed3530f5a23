"""A loopback provider: the peer of all tests that need a model behind a real wire.

It speaks OpenAI chat completions and responses and Anthropic messages as their official SDKs know them, with the
providers' own checks, errors, streams, usage and prefix caches, and with every fault that a provider can have.

    with Provider(scripted(["positive", "negative"])) as provider:
        provider.faults.on(2, Fault("status", status=429, retry_after_ms="20"))
        client = openai.OpenAI(api_key=KEY, base_url=provider.base_url_openai)
"""

from .answers import constant, echo, fitted, nearest, scripted
from .catalog import ModelFacts
from .faults import ANSWER_KINDS, BEFORE, HEADERS, LINE_KINDS, STATUSES, Fault, Schedule, at_every_point, every_fault, http_date
from .process import provider_process
from .records import Record, Records
from .server import Provider, refused_url
from .settings import KEY, Settings
from .values import Answer, Ask, Block, Said, Usage

__all__ = [
    "ANSWER_KINDS",
    "BEFORE",
    "HEADERS",
    "KEY",
    "LINE_KINDS",
    "STATUSES",
    "Answer",
    "Ask",
    "Block",
    "Fault",
    "ModelFacts",
    "Provider",
    "Record",
    "Records",
    "Said",
    "Schedule",
    "Settings",
    "Usage",
    "at_every_point",
    "constant",
    "echo",
    "every_fault",
    "fitted",
    "http_date",
    "nearest",
    "provider_process",
    "refused_url",
    "scripted",
]
