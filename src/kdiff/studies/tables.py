"""Figures as text: means with their spread, and Markdown tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def deviation(values: Sequence[float]) -> float:
    """The standard deviation, NaN for one value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def with_spread(mean: float, std: float) -> str:
    """A mean ± standard deviation, rounded to the digits that make sense."""
    # Rounded numbers are formatted again, so that 12 becomes 10 and not 1e+01. A fixed k has no spread.
    rounded, spread = f"{float(f'{mean:.3g}'):g}", f"{float(f'{std:.1g}'):g}"
    return rounded if math.isnan(std) or std == 0 else f"{rounded} ± {spread}"


def counted_seeds(count: int) -> str:
    """1 seed, 2 seeds."""
    return f"{count} seed{'' if count == 1 else 's'}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    body = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in [header, *lines]]
    body.insert(1, "|" + " --- |" * len(header))
    return "\n".join(body)
