"""What `kdiff evaluate RUN` found of fields, tables and ensembles, as text."""

from __future__ import annotations

import math
from typing import Any

AGAINST = {"fields": "held-out data", "table": "held-out data", "ensemble": "held-out truth"}


def own_table(result: dict[str, Any]) -> str:
    """The entries of `kdiff.evaluation.own_data` as text: a line for each sampler and measure; empty if there are none."""
    return "\n\n".join(_part(name, result[name]) for name in AGAINST if name in result)


def own_lines(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of an entry. If all samplers have the same figures, each stands once, with an empty sampler."""
    lines, samplers = found["figures"], dict.fromkeys(line["sampler"] for line in found["figures"])
    apart = [[{**line, "sampler": ""} for line in lines if line["sampler"] == name] for name in samplers]
    return apart[0] if len(apart) > 1 and all(str(each) == str(apart[0]) for each in apart) else list(lines)


def _part(name: str, found: dict[str, Any]) -> str:
    ensemble = name == "ensemble"
    if ensemble:
        header = [f"{found['conditions']} × {found['members']} members", "floor: a member as truth", "climatology"]
    else:
        header = [f"{found['samples']} samples", f"floor: {found['train']} training rows"]
    lines = [["sampler", "measure", *header]]
    for line in own_lines(found):
        cells = [_number(line["value"], line.get("spread")), _number(line["floor"], line.get("floor_spread"))]
        lines.append([line["sampler"], line["measure"], *cells, *([_number(line["baseline"])] if ensemble else [])])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    used = found["conditions" if ensemble else "heldout"]
    of = f"{used} of {found['heldout_of']} rows" if used < found["heldout_of"] else f"{used} rows"
    left_out = [f"{what} is left out: {why}" for what, why in found.get("left_out", {}).items()]
    return "\n".join([f"{name}, against {AGAINST[name]} ({of})", *rows, *left_out])


def _number(value: float, spread: float | None = None) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.4g}" + ("" if spread is None or math.isnan(spread) else f" ± {spread:.2g}")
