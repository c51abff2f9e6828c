"""The kinds of k that the claim `ablation` compares: their names, cells and colours, and k(t) of a run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdiff.run.run import load_run
from kdiff.targets import LearnedKOfTime

DATA = {"spiral": "spiral(ambient_dim=32, embedding=curved)", "digits": "digits"}
UNIFORM, LOGIT_NORMAL = "uniform times", "logit-normal times"
TABLE, PAIR = "learned_of_time(form='table')", "learned_pair"
FORMS = {
    TABLE: "free table",
    "learned_of_time(form='polynomial')": "polynomial",
    "learned_of_time(form='wiener')": "Wiener form",
}
STARTS = {0.2: "learned(init=0.2)", 0.5: "learned", 0.8: "learned(init=0.8)"}
PACES = {1: "learned(rate=1)", 3: "learned(rate=3)", 10: "learned", 30: "learned(rate=30)"}
CLAMPED, EXACT = "learned(init=0.98)", "learned(init=0.98, clamp_target=False)"
DATA_CLAMPED, DATA_EXACT = "data", "data(clamp_target=False)"
# The law of JiT, its mirror image, and the symmetric law between them.
SKEWED = {"JiT's times, mean −0.8": -0.8, "times of mean 0": 0.0, "times of mean +0.8": 0.8}
DECIDING = 2 * len(FORMS) + 1  # the number of comparisons that decide the verdict
MOVED = 0.05  # differences of k above this count
COLOURS = dict(zip(["learned", PAIR, *FORMS], ("#55a868", "#c44e52", "#dd8452", "#4c72b0", "#8172b3")))


def cell(data: str, times: str) -> str:
    """The name of a cell."""
    return f"{data}, {times}"


def datasets(full: bool) -> list[str]:
    """The names of the data sets: a bent spiral in 32 dimensions, and in the full form digits."""
    return list(DATA) if full else ["spiral"]


@lru_cache
def curve(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Times t, and k(t) of the averaged weights at the end of a run."""
    t = torch.linspace(0, 1, 201)
    target = load_run(folder, calibrated=False).model.target
    assert isinstance(target, LearnedKOfTime)
    return t.numpy(), target.k_at(t.to(target.w.device)).cpu().numpy()
