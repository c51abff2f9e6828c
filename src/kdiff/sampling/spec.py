"""Naming a solver or a grid in text: `heun`, `shifted(0.3)`, `dopri5(rtol=1e-6)`.

This room may not know `kdiff.components`, whose forms these are too, but for values without a name.
"""

from __future__ import annotations

import ast
from typing import Any


def read_spec(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name, values and options of `name(value, …, option=value, …)`; values are numbers or words.

    Raises:
        ValueError: text of another form.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            return call.id, [], {}
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        options = {item.arg: _value(item.value) for item in call.keywords if item.arg}
        if len(options) < len(call.keywords):
            raise ValueError
        return call.func.id, [_value(item) for item in call.args], options
    except (SyntaxError, ValueError):
        raise ValueError(f"cannot read {text!r}; expected a name, or name(option=value, …) as in dopri5(rtol=1e-6)") from None


def _value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
