"""Conditions of a data set: their descriptions, and their normalised values in the order of the samples.

An array (N, ...) becomes one of the four kinds of `kdiff.config.condition_spec`. Its shape decides which, unless the kind is
given: (N,) and (N, q) are a vector, and (N, c, *grid) for samples (C, *grid) is a field. Classes and tokens are named as such.
Statistics for normalising come from the training part: for each number of a vector, each channel of a field, and each of the q
numbers of tokens.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.config.condition_spec import KINDS, ConditionSpec
from kdiff.data.checks import check_flip, to_numpy
from kdiff.data.kept_splits import digest_of
from kdiff.data.normalisation import Normalisation
from kdiff.data.opened import Source, everything
from kdiff.data.precision import double_values
from kdiff.data.samples import Samples
from kdiff.data.source_samples import SourceSamples
from kdiff.data.streamed_condition import FITTED, Channel, normalisation_of, pass_over
from kdiff.files import cache

FEW = 1000  # whole numbers 0 … K − 1 with up to this many values look like classes
RESERVED = ("x", "y", "mask")  # names with another meaning


@dataclass(frozen=True, eq=False)
class Condition:
    """The values of one condition, for every sample.

    - `spec`: its name, kind and shape.
    - `values`: normalised, float32 (N, *shape); for a class int64 (N,). NaN means that a sample has no such condition.
    - `normalisation`: from the condition's own units; that of a class is `none`.
    """

    spec: ConditionSpec
    values: Tensor | Samples
    normalisation: Normalisation

    def describe(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {**self.spec.plain(), "normalisation": self.normalisation.describe()}


def make_conditions(
    data: str,
    given: Mapping[str, object],
    kinds: Mapping[str, str],
    split: Tensor,
    shape: tuple[int, ...],
    fingerprint: str,
    flip: bool = False,
) -> tuple[dict[str, Condition], str]:
    """The conditions of samples of this shape, and the fingerprint of samples and conditions together.

    Args:
        data: the name of the data, for messages.
        given: arrays or tensors (N, ...) by name, or sources, of which fields and tokens are read by rows
            (`kdiff.data.streamed_condition`). NaN in a whole row means that the sample has no such condition.
        kinds: the kinds of those whose shape does not say it.
        split: the part of each sample; the samples of part 0 are trained on.
        shape: the shape of a sample.
        fingerprint: that of the samples and their labels, which stays as it is without conditions.
        flip: whether training mirrors the samples.

    Raises:
        TypeError: a condition is not an array or a tensor.
        ValueError: a name has another meaning, or a kind belongs to no condition; or an array has another length, a shape or
            values that do not fit its kind, an infinite number, or rows that are NaN in part; or samples are mirrored, and a
            condition is a field.
    """
    if unknown := [name for name in kinds if name not in given]:
        raise ValueError(f"{data}: a kind is given for the condition {unknown[0]!r}; the conditions are {_listed(given)}")
    if taken := [name for name in given if name in RESERVED or not str(name).isidentifier()]:
        raise ValueError(
            f"{data}: a condition cannot be called {taken[0]!r}; expected one word besides {', '.join(RESERVED)}, so rename "
            "the array"
        )
    arrays: dict[str, tuple[str, np.ndarray]] = {}
    sources: dict[str, tuple[str, Source]] = {}
    for name in given:
        one = given[name]
        raw = one if isinstance(one, Source) else to_numpy(f"{data}: the condition {name!r}", one)
        if not raw.ndim or len(raw) != len(split):
            raise ValueError(
                f"{data}: the condition {name!r} has shape {raw.shape}; expected {len(split)} rows, one for each sample"
            )
        kind = _kind(data, name, raw, kinds.get(name), shape)
        if isinstance(raw, Source) and kind in FITTED:
            sources[name] = kind, Channel(raw) if kind == "field" and raw.ndim == len(shape) else raw
        else:
            arrays[name] = kind, everything(raw) if isinstance(raw, Source) else raw
    check_flip(data, flip, (0, *shape), fields=[name for name, (kind, _) in (arrays | sources).items() if kind == "field"])
    found: dict[str, Condition] = {}
    hashed: dict[str, np.ndarray] = {}
    for name, (kind, raw) in arrays.items():
        if kind == "class":
            hashed[name], classes = _as_class(data, name, raw)
            values = torch.from_numpy(hashed[name])
            found[name] = Condition(ConditionSpec(name, kind, (), classes), values, Normalisation.none())
        else:
            hashed[name] = _as_numbers(data, name, raw, kind, shape)
            found[name] = _normalised(data, name, kind, hashed[name], split)

    def work() -> dict[str, Any]:
        digest, facts = hashlib.blake2b(fingerprint.encode(), digest_size=8), {}
        for name in sorted(given):
            kind, values = sources[name] if name in sources else (arrays[name][0], hashed[name])
            digest.update(repr((name, kind, values.shape)).encode())
            if isinstance(values, Source):
                facts[name] = pass_over(f"{data}: the condition {name!r}", values, kind, split, digest)
            else:
                _update(digest, kind, values)
        return {"fingerprint": digest.hexdigest() if given else fingerprint, "facts": facts}

    kept = _kept(work, sources, {name: (arrays[name][0], values) for name, values in hashed.items()}, split, fingerprint)
    for name, (kind, source) in sources.items():
        normalisation = normalisation_of(kept["facts"][name])
        for text in kept["facts"][name]["remarks"]:
            warnings.warn(f"{data}: the condition {name!r}{' ' if text.startswith('is') else ': '}{text}", stacklevel=4)
        spec = ConditionSpec(name, kind, tuple(source.shape[1:]))
        found[name] = Condition(spec, SourceSamples(source, normalisation), normalisation)
    # In the order of the caller, in which networks make their layers.
    return {name: found[name] for name in given}, kept["fingerprint"]


def _kept(
    work: Callable[[], dict[str, Any]],
    sources: Mapping[str, tuple[str, Source]],
    arrays: Mapping[str, tuple[str, np.ndarray]],
    split: Tensor,
    fingerprint: str,
) -> dict[str, Any]:
    """The result of `work`; if there are sources whose identity is known, it is kept in the cache."""
    if not sources or any(source.identity is None for _, source in sources.values()):
        return work()
    facts: list[Any] = [(name, kind, source.identity) for name, (kind, source) in sorted(sources.items())]
    for name, (kind, values) in sorted(arrays.items()):
        digest = hashlib.blake2b()
        _update(digest, kind, values)
        facts.append((name, kind, values.shape, digest.hexdigest()))
    return cache.json_of(cache.entry("conditions", fingerprint, digest_of(split), *facts).with_suffix(".json"), work)


def _update(digest: Any, kind: str, values: np.ndarray) -> None:
    """Add the values to the fingerprint."""
    for chunk in _chunks(values, "<i8" if kind == "class" else "<f8"):
        digest.update(chunk.data)


def _listed(given: Mapping[str, object]) -> str:
    return ", ".join(given) or "none"


def _kind(data: str, name: str, raw: np.ndarray | Source, kind: str | None, shape: tuple[int, ...]) -> str:
    """The kind that is given, or the one that the shape says."""
    say = f"{data}: the condition {name!r} has shape {raw.shape} and type {raw.dtype}"
    if raw.dtype.kind not in "iufb":
        raise ValueError(f"{say}; expected numbers, so convert texts by np.unique(values, return_inverse=True)[1]")
    if kind is not None:
        if kind not in KINDS:
            raise ValueError(f"{data}: the condition {name!r} has the kind {kind!r}; expected one of {', '.join(KINDS)}")
        ranks = {"class": (1,), "vector": (1, 2), "field": (len(shape), len(shape) + 1), "tokens": (3,)}[kind]
        column = kind == "class" and raw.ndim == 2 and raw.shape[1] == 1
        if (raw.ndim not in ranks and not column) or (kind == "field" and len(shape) < 2):
            form = {
                "class": "(N,), and several classes as several conditions",
                "vector": "(N,) or (N, q)",
                "field": f"(N, c, …) with {len(shape) - 1} axes of a grid" if len(shape) > 1 else "samples (C, …) on a grid",
                "tokens": "(N, length, q)",
            }[kind]
            raise ValueError(f"{say}; expected {form} for the kind {kind}")
        return kind
    if raw.ndim == 1 and raw.dtype.kind == "b":
        return "class"
    if raw.ndim <= 2:
        if isinstance(raw, np.ndarray) and raw.ndim == 1 and raw.dtype.kind in "iu" and raw.min() == 0:
            values = np.unique(raw)
            if len(values) == values[-1] + 1 <= min(FEW, len(raw) // 2):
                warnings.warn(
                    f"{data}: the condition {name!r} holds the whole numbers 0 … {values[-1]} and is taken as a vector of one "
                    f"number; if they are classes, give condition={{{name}: class}}, and else condition={{{name}: vector}}",
                    stacklevel=5,
                )
        return "vector"
    if len(shape) > 1 and (raw.ndim == len(shape) + 1 or raw.shape[1:] == shape[1:]):
        return "field"
    raise ValueError(
        f"{say}, and samples have shape {shape}; a field has the axes (N, c, *grid) of samples (C, *grid); for a sequence "
        f"(N, length, q) give condition={{{name}: tokens}}, and for a vector save it as (N, q)"
    )


def _as_class(data: str, name: str, raw: np.ndarray) -> tuple[np.ndarray, int]:
    """Classes as int64 (N,), and their number, into which NaN, which is "none", is changed."""
    raw = raw.reshape(len(raw))
    none = np.isnan(raw) if raw.dtype.kind == "f" else np.zeros(len(raw), bool)
    there = raw[~none]
    if not len(there) or (there.dtype.kind == "f" and not (there == np.round(there)).all()) or there.min() < 0:
        raise ValueError(f"{data}: the condition {name!r} is a class; expected whole numbers from 0, or NaN for none")
    if there.max() >= max(len(raw), FEW):
        raise ValueError(
            f"{data}: the classes of the condition {name!r} run to {there.max():g} for {len(raw)} samples; renumber them "
            "from 0 by np.unique(values, return_inverse=True)[1]"
        )
    classes = int(there.max()) + 1
    if empty := classes - len(np.unique(there)):
        warnings.warn(
            f"{data}: {empty} of the {classes} classes of the condition {name!r} have no samples; renumber them by "
            "np.unique(values, return_inverse=True)[1]",
            stacklevel=5,
        )
    values = np.full(len(raw), classes, np.int64)
    values[~none] = there
    return values, classes


def _as_numbers(data: str, name: str, raw: np.ndarray, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """The rows with their full shape. Raises ValueError for infinite numbers, and for rows that are NaN in part or all NaN."""
    if kind == "vector" and raw.ndim == 1:
        raw = raw[:, None]
    if kind == "field" and raw.ndim == len(shape):
        raw = raw[:, None]
    if raw.dtype.kind == "b":
        raw = raw.astype(np.float32)
    if raw.dtype.kind == "f":
        if infinite := int(np.isinf(raw).sum()):
            raise ValueError(
                f"{data}: the condition {name!r} holds {infinite} infinite numbers; repair or remove these samples"
            )
        nan = np.isnan(raw).reshape(len(raw), -1)
        if partly := int((nan.any(1) & ~nan.all(1)).sum()):
            raise ValueError(
                f"{data}: the condition {name!r} is NaN in part of its row for {partly} samples; a row of NaN only means no "
                "condition, so fill the gaps, split the array into several conditions, or make the whole rows NaN"
            )
        if nan.all():
            raise ValueError(f"{data}: the condition {name!r} is NaN for every sample; leave it out")
    return raw


def _chunks(values: np.ndarray, dtype: str) -> Iterator[np.ndarray]:
    """The values in this type, with one kind of NaN and of zero, so that their bytes do not depend on the type in the file."""
    size = max(1, 2**22 // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), size):
        chunk = np.array(values[start : start + size], dtype, order="C")
        if dtype == "<f8":
            chunk += 0.0
            chunk[np.isnan(chunk)] = np.nan
        yield chunk


def _normalised(data: str, name: str, kind: str, values: np.ndarray, split: Tensor) -> Condition:
    """A vector, a field or tokens, with statistics of the rows of the training part that are not NaN."""
    spec, what = ConditionSpec(name, kind, tuple(values.shape[1:])), f"{data}: the condition {name!r}"
    flat = values.reshape(len(values), -1)
    there = ~np.isnan(flat[:, 0]) if values.dtype.kind == "f" else np.ones(len(values), bool)
    train = there & (split.numpy() == 0)
    if not train.any():
        raise ValueError(f"{what} is NaN for every sample of the training part; leave it out")
    if (flat[there] == flat[there][:1]).all() and there.all():
        warnings.warn(f"{what} is the same for every sample, so it says nothing; leave it out", stacklevel=5)
    fitted = "channels" if kind == "field" else "features"
    rows = values.reshape(-1, values.shape[-1]) if kind == "tokens" else values
    of_rows = np.repeat(there, values.shape[1]) if kind == "tokens" else there
    of_train = np.repeat(train, values.shape[1]) if kind == "tokens" else train
    double = double_values(what, rows[of_rows], fitted, None)
    dtype = torch.float32 if double is None else torch.float64
    with np.errstate(over="ignore"):
        raw = torch.from_numpy(np.array(rows, np.float32 if double is None else np.float64))
    if raw.isinf().any():
        raise ValueError(f"{what} has values beyond float32's range; rescale it")
    normalisation = Normalisation.fit(fitted, raw[torch.from_numpy(of_train)].to(dtype))
    return Condition(spec, normalisation.apply(raw).float().reshape(values.shape), normalisation)
