"""Scorers of what an answer took, and of the task's contract."""

from __future__ import annotations

from ...contract import Contract, validator
from .common import Inner, plain
from .protocol import Answer, Grade, Unscored
from .vocabulary import rules_of


def latency(most: float) -> Inner:
    """Passes when the model took at most ``most`` seconds."""

    def grade(answer: Answer) -> Grade:
        if answer.latency <= 0:
            raise Unscored("how long the answer took was not recorded")
        return plain(answer.latency <= most, f"took {answer.latency:.3g} s{_over(answer.latency, most, ' s')}")

    return grade


def cost(most: float) -> Inner:
    """Passes when the answer cost at most ``most`` US dollars."""

    def grade(answer: Answer) -> Grade:
        if answer.cost is None:
            raise Unscored(f"the price of {answer.model or 'the model'} is unknown")
        return plain(answer.cost <= most, f"cost ${answer.cost:.6g}{_over(answer.cost, most, '')}")

    return grade


def _over(found: float, most: float, unit: str) -> str:
    return f", more than {most:g}{unit}" if found > most else ""


def holds_contract(contract: Contract) -> Inner:
    """Passes when the output breaks no rule of the contract; the score is the share of rules that hold."""
    judge, rules = validator(contract), max(1, rules_of(contract))

    def grade(answer: Answer) -> Grade:
        reasons = judge(answer.output).reasons
        if not reasons:
            return plain(True, "holds the contract")
        return Grade(max(0.0, 1 - len(reasons) / rules), False, "; ".join(reasons))

    return grade
