"""Templates whose variables are named: ``{{audience}}``. All other braces are text.

A value is never pasted into instructions. Where the value of a variable is data, the variable becomes the name of the tags
between which the step is shown it, and the step may see exactly what its template names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...errors import InputError, did_you_mean

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_-]*)\s*\}\}")


def variables(template: str) -> tuple[str, ...]:
    """The names of its variables, each once."""
    return tuple(dict.fromkeys(_VARIABLE.findall(template)))


def fill(template: str, values: Mapping[str, str], *, name: str) -> str:
    """``template`` with its variables replaced, in one pass: what a value holds is no variable.

    Raises :class:`InputError` naming a variable without a value; ``name`` is what the template is called.
    """
    for variable in variables(template):
        if variable not in values:
            raise InputError(
                f"the template {name} names {{{{{variable}}}}}, which has no value",
                hint=did_you_mean(variable, values) or f"give it as an input; there are {', '.join(values)}",
            )
    return _VARIABLE.sub(lambda found: values[found[1]], template)
