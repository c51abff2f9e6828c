"""The conditions under which samples are drawn: examples that a run keeps, or values that a user gives.

    conditions.safetensors    up to 1,000 rows of each condition of the held-out part (at most 16 MiB in all), in the order of
                              the data and normalised, as the model reads them; with them the label `y`, if there is one

So sampling needs no data. Sample number i gets row i of the examples; after the last row the first one follows again. A user
gives values in the data's own units, one row for all samples or a row for each; the run's normalisation then applies.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.config.condition_spec import ConditionSpec
from kdiff.data import Dataset, Normalisation
from kdiff.files.atomic import new_file
from kdiff.files.tensors import load_tensors, save_tensors
from kdiff.model import KDiff

EXAMPLES = "conditions.safetensors"
KEPT_ROWS, KEPT_BYTES = 1000, 2**24
SHOWN = 8  # numbers of a row in a message

Facts = Mapping[str, Any]  # the content of data.json


@dataclass(frozen=True)
class Given:
    """What the model is given for each sample.

    - `counts`: the number of training samples of each class, for labels in these proportions; None without labels.
    - `rows`: conditions by name, normalised, all with the same number of rows. A label `y` among them replaces `counts`.
    - `ensemble`: how many samples in a row get the same row.
    - `asked`: whether a caller has asked for these rows, so that each of them should get its samples.
    """

    counts: list[int] | None = None
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    ensemble: int = 1
    asked: bool = False

    def __len__(self) -> int:
        """The number of rows; 0 if there are none."""
        return len(next(iter(self.rows.values()))) if self.rows else 0

    @property
    def usual(self) -> int:
        """The number of samples if none is named: `ensemble` for each row that was asked for, or else 64."""
        return len(self) * self.ensemble if self.asked else 64

    def chosen(self, indices: range) -> dict[str, Tensor]:
        """The rows for the samples with these numbers."""
        numbers = torch.tensor(indices) // self.ensemble
        return {name: values[numbers % len(values)] for name, values in self.rows.items()}


def specs_of(facts: Facts) -> list[ConditionSpec]:
    """The conditions in data.json, besides the label of a class."""
    keys = ("name", "kind", "shape", "num_classes")
    return [ConditionSpec(**{key: each[key] for key in keys}) for each in facts.get("conditions", {}).values()]


def described(dataset: Dataset, train_on: str) -> dict[str, Any]:
    """The entry `conditions` of data.json: kind, shape and normalisation of each, and the range of a vector's numbers."""
    found, parts = {}, dataset.conditions_of(train_on)
    for name, condition in dataset.conditions.items():
        found[name] = condition.describe()
        if condition.spec.kind == "vector":
            values = condition.normalisation.undo(parts[name][:]).double()
            missing = values.isnan()
            low = torch.where(missing, math.inf, values).amin(0)
            high = torch.where(missing, -math.inf, values).amax(0)
            if not missing.all(0).any():
                found[name]["range"] = {"low": low.tolist(), "high": high.tolist()}
    return found


def keep_examples(dataset: Dataset, folder: Path) -> None:
    """Write conditions.safetensors for data with conditions, unless it is there already."""
    if not dataset.conditions or (folder / EXAMPLES).exists():
        return
    parts = dataset.conditions_of("heldout")
    row = sum(values[:1].numel() * 4 for values in parts.values())
    kept = {name: values[: max(1, min(KEPT_ROWS, KEPT_BYTES // row))] for name, values in parts.items()}
    with new_file(folder / EXAMPLES) as aside:
        save_tensors(aside, kept)


def examples(folder: Path, facts: Facts) -> dict[str, Tensor]:
    """The examples of a run with conditions. Raises ValueError if the file is missing, damaged or of other conditions."""
    if not facts.get("conditions"):
        return {}
    kept = load_tensors(folder / EXAMPLES)
    names = {*facts["conditions"], *(["y"] if facts["num_classes"] else [])}
    sizes = {len(values) for values in kept.values()}
    if set(kept) != names or len(sizes) != 1 or any(tuple(kept[spec.name].shape[1:]) != spec.shape for spec in specs_of(facts)):
        raise ValueError(f"{folder / EXAMPLES} does not hold rows of {', '.join(sorted(names))}; restore it from a copy")
    return kept


def given_rows(facts: Facts, values: Mapping[str, Any], can_be_none: Mapping[str, Any]) -> dict[str, Tensor]:
    """Conditions that a user gives, as the model reads them: normalised rows by name, all with the same number of rows.

    Args:
        facts: the content of data.json.
        values: numbers, arrays or tensors by name, in the data's own units, one row or several. None is "none". A class is a
            number or a name.
        can_be_none: the conditions that training has hidden, for which "none" has a meaning.

    Raises:
        ValueError: a condition is unknown, has another shape, or cannot be "none"; or the numbers of rows differ.
    """
    specs = {spec.name: spec for spec in specs_of(facts)}
    if facts["num_classes"]:
        specs = {"y": ConditionSpec("y", "class", (), facts["num_classes"]), **specs}
    if unknown := [name for name in values if name not in specs]:
        has = f"its conditions are {', '.join(specs)}" if specs else "it has no conditions"
        raise ValueError(f"the run has no condition {unknown[0]!r}; {has}")
    rows = {name: _rows(spec, values[name], facts) for name, spec in specs.items() if values.get(name) is not None}
    absent = [name for name in specs if name not in rows]
    none = [*absent, *(name for name, value in rows.items() if _is_none(specs[name], value).any())]
    if never := [name for name in none if name not in can_be_none]:
        raise ValueError(
            f"the condition {never[0]!r} is none, but training never hid it, so that the model does not know this; give a value"
        )
    number = max((len(value) for value in rows.values()), default=1)
    if wrong := [f"{name} has {len(value)}" for name, value in rows.items() if len(value) not in (1, number)]:
        raise ValueError(f"the conditions differ in their numbers of rows: {', '.join(wrong)}; expected 1 or {number}")
    if unsaid := [name for name in absent if name not in values]:
        warnings.warn(f"no value is given for the condition {', '.join(unsaid)}, so it is none", stacklevel=3)
    for name in absent:
        kind = torch.int64 if specs[name].kind == "class" else torch.float32
        rows[name] = torch.full((1, *specs[name].shape), specs[name].null, dtype=kind)
    return {name: rows[name].expand(number, *rows[name].shape[1:]) for name in specs}


def check_guided(model: KDiff, guide_on: Sequence[str] | None, folder: Path | str) -> None:
    """Raise ValueError for classifier-free guidance away from conditions that training did not hide in this way."""
    both = [name for name in model.null if 0 < rate_of(model, name) < 1]
    lacking = [name for name in (guide_on or model.null or ["any"]) if name not in both]
    if lacking:
        raise ValueError(
            f"{folder} was not trained both with and without {', '.join(lacking)}, so only a weaker model (--guidance-run) can "
            "guide it there; "
            + (f"name some of {', '.join(both)} by --guide-on, or leave --guidance out" if both else "leave --guidance out")
        )
    if guide_on and not isinstance(model.null_rate, Mapping) and set(guide_on) != set(both):
        raise ValueError(
            f"guide_on is {', '.join(guide_on)}, but {folder} hid {', '.join(both)} together, so the model does not know the "
            "one without the other; train with null_rates, or guide on all of them"
        )


def in_words(spec: ConditionSpec) -> str:
    """The name, the kind and the size of a condition: "params: vector, 2"."""
    size = f"{spec.num_classes} classes" if spec.kind == "class" else " × ".join(map(str, spec.shape))
    return f"{spec.name}: {spec.kind}, {size}"


def describe_conditions(model: KDiff, specs: Sequence[ConditionSpec]) -> str:
    """A line for each condition: its kind, its size, how often training hides it, and what the network does to it."""
    lines = []
    label = [ConditionSpec("y", "class", (), model.null["y"])] if specs and "y" in model.null else []
    for spec in (*label, *specs):
        lines.append(f"condition {in_words(spec)}; hidden at a rate of {rate_of(model, spec.name):g}")
    if specs and len(model.null) > 1 and not isinstance(model.null_rate, Mapping):
        lines.append(f"{', '.join(model.null)} are hidden together; null_rates gives each its own rate")
    return "\n".join([*lines, *getattr(model.network, "notes", [])])


def rate_of(model: KDiff, name: str) -> float:
    """How often training hides a condition."""
    rate = model.null_rate
    return rate.get(name, 0.0) if isinstance(rate, Mapping) else rate if name in model.null else 0.0


def given_by(
    facts: Facts, usual: Given, conditions: Mapping[str, Any] | Given | None, ensemble: int, can_be_none: Mapping[str, Any]
) -> Given:
    """What the model is given for the conditions of a caller, or for an ensemble of the usual ones; errors of `given_rows`."""
    if isinstance(conditions, Given):
        return conditions
    rows = given_rows(facts, conditions, can_be_none) if conditions else usual.rows
    if ensemble < 1 or (ensemble > 1 and not rows):
        expected = "at least 1 sample for each row" if rows else "conditions with it, or 1"
        raise ValueError(f"ensemble is {ensemble}; expected {expected}")
    return replace(usual, rows=rows, ensemble=ensemble, asked=bool(conditions))


def own_units(facts: Facts, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows of conditions in the data's own units."""
    known = facts.get("conditions", {})
    return {
        name: Normalisation.from_description(known[name]["normalisation"]).undo(values)
        if name in known and known[name]["kind"] != "class"
        else values
        for name, values in rows.items()
    }


def _is_none(spec: ConditionSpec, rows: Tensor) -> Tensor:
    return rows == spec.num_classes if spec.kind == "class" else rows.isnan().flatten(1).all(1)


def _rows(spec: ConditionSpec, value: Any, facts: Facts) -> Tensor:
    """The rows (R, *shape) of one condition, normalised."""
    if spec.kind == "class":
        return _labels(spec, value, facts.get("class_names") if spec.name == "y" else None)
    sizes = " × ".join(map(str, spec.shape))
    try:
        raw = torch.as_tensor(np.asarray(value.cpu() if isinstance(value, Tensor) else value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"the condition {spec.name!r} is {value!r}; expected numbers of shape {sizes}") from None
    found = tuple(raw.shape)
    if math.prod(spec.shape) == 1 and raw.ndim <= 1:
        raw = raw.reshape(-1, *spec.shape)
    elif found == spec.shape:
        raw = raw[None]
    if raw.shape[1:] != spec.shape or not len(raw):
        raise ValueError(
            f"the condition {spec.name!r} has shape {found}; expected one row of shape {spec.shape}, or several rows "
            f"{('R', *spec.shape)}".replace("'R'", "R")
        )
    if raw.isinf().any():
        raise ValueError(f"the condition {spec.name!r} holds an infinite number; expected finite numbers, or NaN for none")
    known = facts["conditions"][spec.name]
    _say_if_outside(spec, raw, known.get("range"))
    return Normalisation.from_description(known["normalisation"]).apply(raw).float()


def _labels(spec: ConditionSpec, value: Any, names: list[str] | None) -> Tensor:
    """Rows of a class, from numbers or names."""
    if isinstance(value, str) or (isinstance(value, list | tuple) and any(isinstance(each, str) for each in value)):
        words = [value] if isinstance(value, str) else [str(each) for each in value]
        if unknown := [word for word in words if word not in (names or [])]:
            has = f"its classes are {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}" if names else "no names"
            raise ValueError(f"the condition {spec.name!r} has no class {unknown[0]!r}; {has}")
        return torch.tensor([(names or []).index(word) for word in words])
    labels = torch.as_tensor(value).cpu()
    whole = not labels.is_complex() and labels.dtype != torch.bool and bool((labels == labels.round()).all())
    if labels.ndim > 1 or not labels.numel() or not whole or labels.min() < 0 or labels.max() > spec.num_classes:
        raise ValueError(
            f"the condition {spec.name!r} is {value!r}; expected whole numbers from 0 to {spec.num_classes - 1}, or "
            f"{spec.num_classes} for no class"
        )
    return labels.reshape(-1).long()


def _say_if_outside(spec: ConditionSpec, raw: Tensor, known: Mapping[str, Any] | None) -> None:
    """Warn of numbers outside the range that the model was trained on."""
    if known is None:
        return
    low, high = (torch.tensor(known[key], dtype=torch.float64) for key in ("low", "high"))
    room = 1e-6 * (high - low)  # what float32 rounds
    outside = ((raw < low - room) | (raw > high + room)).any(0)
    if not outside.any():
        return
    place = int(outside.nonzero()[0])
    values = raw[:, place]
    worst = values[torch.maximum(values - high[place], low[place] - values).nan_to_num(nan=-math.inf).argmax()]
    warnings.warn(
        f"the condition {spec.name!r} has {worst:g} for number {place + 1}; training saw {low[place]:g} to {high[place]:g}",
        stacklevel=4,
    )
