"""Fields with gaps, labels, a vector and the past, read from disk by rows or held in memory, for tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdiff.data import Dataset, make_dataset
from kdiff.data.opened import Array
from kdiff.data.streamed import streamed_dataset


def fields(folder: str, num: int = 120, memory: bool = False) -> Dataset:
    """Fields (2, 4, 4), a fifth of whose values are missing."""
    rng = np.random.default_rng(0)
    raw = {"fields": (5 + 3 * rng.standard_normal((num, 2, 4, 4))).astype(np.float32), "past": rng.random((num, 1, 4, 4))}
    raw["fields"][rng.random(raw["fields"].shape) < 0.2] = np.nan
    y, params = rng.integers(0, 3, num), rng.random((num, 2))
    if memory:
        conditions = {"params": params, "past": raw["past"]}
        return make_dataset("fields", raw["fields"], y, "channels", conditions=conditions, missing="mask")
    sources = {}
    for name, values in raw.items():
        path = Path(folder) / f"{name}.npy"
        if not path.exists():
            np.save(path, values)
        sources[name] = Array(name, np.load(path, mmap_mode="r"), ("toy", str(path)))
    conditions = {"params": params, "past": sources["past"]}
    return streamed_dataset("fields", sources["fields"], "channels", y=y, conditions=conditions, missing="mask")
