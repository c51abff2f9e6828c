"""What data hold before anything is trained on them: the facts and the text of `kdiff info DATA`.

A source is opened, and some of its rows are read: all of them up to 32 MB, else pieces at equal distances. So figures of large
data are those of the rows that were read, and the text says how many.
"""

from __future__ import annotations

import math
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdiff.config.parts import Part, Spec, parse
from kdiff.data.arrays import READERS
from kdiff.data.assembling import default_normalisation, laid_out
from kdiff.data.dataset import Dataset
from kdiff.data.declared import declared_arrays
from kdiff.data.formats.finding import opener_of
from kdiff.data.opened import Array, Opened, Source

READ_BYTES = 2**25
PIECES = 16
SHOWN = 8  # channels, columns and classes that have a line


def opened_data(spec: Spec) -> tuple[Opened, Dataset | None, list[str]]:
    """The sources that a specification of data names, the data set if it had to be loaded, and the warnings of both."""
    part = Part(str(spec)) if isinstance(spec, str) and Path(spec).expanduser().exists() else parse(spec)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        opener, data = opener_of(part.name), None
        if opener is not None:
            options = {key: value for key, value in part.options.items() if key not in ASSEMBLED}
            opened = opener(part.name, *part.values, **options)
            opened.x, opened.mask = laid_out(part.name, opened, part.options.get("layout"))
        else:
            from kdiff.data import load

            data = load(spec)
            opened = _of_dataset(data)
    return opened, data, list(dict.fromkeys(str(one.message) for one in said if issubclass(one.category, UserWarning)))


ASSEMBLED = ("normalise", "value_range", "missing", "flip", "num_classes", "layout")  # options that no format takes


def _of_dataset(data: Dataset) -> Opened:
    """The raw values of a data set that was loaded, as sources."""
    labels = None if data.y is None else Array("labels", data.y.numpy())
    names, kind = data.about.get("class_names"), data.normalisation
    known = kind.kind == "range"
    ends = (float(kind.shift - kind.scale), float(kind.shift + kind.scale)) if known and kind.shift.ndim == 0 else None
    return Opened(_Raw(data, ends == (0, 255)), labels, list(names) if names else None, value_range=ends)


class _Raw(Source):
    """The raw values of a data set: its normalised samples, with the normalisation undone."""

    def __init__(self, data: Dataset, whole: bool) -> None:
        self.name, self.data, self.whole = data.name, data, whole
        self.shape, self.dtype = (len(data.x), *data.shape), np.dtype(np.float32)
        some = self.read(some_rows(self))
        self.whole = whole and bool((np.abs(some - np.rint(some)) < 1e-3).all())
        self.dtype = np.dtype(np.uint8) if self.whole else some.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows; rounded to bytes if they are images of 8 bits."""
        raw = self.data.normalisation.undo(self.data.x[torch.from_numpy(rows)]).numpy()
        return np.rint(raw).astype(np.uint8) if self.dtype == np.uint8 else raw


def some_rows(source: Source) -> np.ndarray:
    """Rows at equal distances, in pieces of rows that are stored together; all of them if they are small."""
    count, row = len(source), max(1, source.nbytes // max(1, len(source)))
    most = max(1, READ_BYTES // row)
    if count <= most:
        return np.arange(count)
    pieces = min(PIECES, most)
    starts = np.linspace(0, count - most // pieces, pieces).astype(np.int64)
    return np.unique((starts[:, None] + np.arange(most // pieces)).ravel())


def facts_of(source: Source) -> dict[str, Any]:
    """Shape, type, size, and of the rows that were read: how many, and by channel range, mean, deviation and missing values."""
    found: dict[str, Any] = {"shape": list(source.shape), "dtype": str(source.dtype), "bytes": source.nbytes}
    if not len(source) or source.dtype.kind not in "iufb":
        return found
    rows = some_rows(source)
    values = source.read(rows).astype(np.float64)
    by_channel = values.reshape(len(values), values.shape[1] if values.ndim > 1 else 1, -1)
    found |= {"rows_read": len(rows), "missing": float(np.isnan(values).mean()), "infinite": int(np.isinf(values).sum())}
    channels = []
    for channel in range(by_channel.shape[1] if values.ndim != 2 or values.shape[1] <= 64 else 0):
        there = by_channel[:, channel][np.isfinite(by_channel[:, channel])]
        channels.append(
            {"min": there.min(), "max": there.max(), "mean": there.mean(), "std": there.std()}
            if there.size
            else {"missing": 1.0}
        )
    there = values[np.isfinite(values)]
    if there.size:
        found |= {"min": there.min(), "max": there.max(), "mean": there.mean(), "std": there.std()}
    found["channels"] = [{name: float(value) for name, value in one.items()} for one in channels]
    return {name: float(value) if isinstance(value, np.floating) else value for name, value in found.items()}


def describe_data(spec: Spec) -> dict[str, Any]:
    """All facts of the data, for JSON. Raises what the readers raise."""
    opened, data, said = opened_data(spec)
    facts: dict[str, Any] = {"data": str(spec), "samples": facts_of(opened.x)}
    part = Part(str(spec)) if isinstance(spec, str) and Path(spec).expanduser().exists() else parse(spec)
    if (path := Path(part.name).expanduser()).suffix.lower() in READERS:
        facts["arrays"] = {name or path.name: str(one) for name, one in declared_arrays(path).items()}
    if opened.y is not None:
        labels = opened.y.read(np.arange(len(opened.y)))
        facts["labels"] = {"shape": list(opened.y.shape), "dtype": str(opened.y.dtype)}
        if labels.ndim == 1 and labels.dtype.kind in "iu" and len(labels):
            values, counts = np.unique(labels, return_counts=True)
            names = opened.classes or []
            facts["classes"] = {
                names[value] if 0 <= value < len(names) else str(value): count
                for value, count in zip(values.tolist(), counts.tolist())
            }
    if opened.conditions:
        facts["conditions"] = {
            name: facts_of(source) | ({"kind": opened.kinds[name]} if name in opened.kinds else {})
            for name, source in opened.conditions.items()
        }
    if opened.mask is not None:
        facts["mask"] = {"shape": list(opened.mask.shape), "present": float(opened.mask.read(some_rows(opened.mask)).mean())}
    facts["normalisation"] = str(part.options.get("normalise") or _normalisation(opened, data))
    facts["about"] = dict(opened.about)
    facts["remarks"] = list(dict.fromkeys([*opened.remarks, *said]))
    facts["memory_float32"] = 4 * math.prod(opened.x.shape)
    facts["commands"] = [shlex.join(["kdiff", "train", "--data", str(spec)]), shlex.join(["kdiff", "compare", str(spec)])]
    return facts


def _normalisation(opened: Opened, data: Dataset | None) -> str:
    """The normalisation that data get by default."""
    if data is not None:
        return data.normalisation.kind
    if opened.value_range is not None:
        return "range, from {:g} … {:g} to −1 … 1".format(*opened.value_range)
    return default_normalisation(opened, None)


def text_of(facts: dict[str, Any]) -> str:
    """The facts as lines."""
    samples = facts["samples"]
    lines = [f"data        {facts['data']}", f"samples     {_array(samples)}"]
    lines += [f"array       {name}: {one}" for name, one in facts.get("arrays", {}).items()]
    read = samples.get("rows_read", 0)
    channels = samples.get("channels", [])
    if len(channels) > 1:
        what = "column " if len(samples["shape"]) == 2 else "channel "
        lines += [f"  {what + str(i):10}{_range(one)}" for i, one in enumerate(channels[:SHOWN])]
        lines += [f"  and {len(channels) - SHOWN} more"] if len(channels) > SHOWN else []
    if read < samples["shape"][0]:
        lines.append(f"            ranges are those of {read:,} of the {samples['shape'][0]:,} samples, at equal distances")
    if "labels" in facts:
        classes = facts.get("classes", {})
        listed = ", ".join(f"{name} ({count:,})" for name, count in list(classes.items())[:SHOWN])
        more = f", and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
        lines.append(f"labels      {len(classes)} classes: {listed}{more}" if classes else f"labels      {facts['labels']}")
    else:
        lines.append("labels      none")
    for name, one in facts.get("conditions", {}).items():
        lines.append(f"condition   {name}: {_array(one)}" + (f", kind {one['kind']}" if "kind" in one else ""))
    if "mask" in facts:
        lines.append(f"mask        {100 * facts['mask']['present']:.4g} % of the entries are present")
    lines.append(f"normalise   {facts['normalisation']}")
    for name, value in facts["about"].items():
        several = isinstance(value, list | tuple) and all(isinstance(one, str | int | float) for one in value)
        if several or isinstance(value, str | int | float):
            lines.append(f"{name:11} {', '.join(map(str, value)) if several else value}")
    lines.append(f"memory      {_size(samples['bytes'])} as stored in memory, {_size(facts['memory_float32'])} as float32")
    if samples.get("missing") and "missing=" not in facts["data"]:
        lines.append("remark      entries are missing: type missing=mask in the brackets to train on what is present")
    lines += [f"remark      {one}" for one in facts["remarks"]]
    return "\n".join([*lines, f"train by    {facts['commands'][0]}", f"compare by  {facts['commands'][1]}"])


def _array(facts: dict[str, Any]) -> str:
    shape = tuple(facts["shape"])
    lost = f", {100 * facts['missing']:.3g} % missing" if facts.get("missing") else ""
    endless = f", {facts['infinite']} infinite" if facts.get("infinite") else ""
    return f"{shape[0]:,} of shape {shape[1:]}, {facts['dtype']}, {_range(facts)}{lost}{endless}"


def _range(facts: dict[str, Any]) -> str:
    if "min" not in facts:
        return "no finite values"
    return f"{facts['min']:.6g} … {facts['max']:.6g}, mean {facts['mean']:.4g}, deviation {facts['std']:.4g}"


def _size(count: float) -> str:
    power = min(4, int(math.log(max(count, 1), 1024)))
    return f"{count / 1024**power:.4g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
