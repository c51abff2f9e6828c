"""Do the data of two models mean the same? Compares what data.json records: classes, normalisation, autoencoder and shape.

Weights that fit can still mean something else: class 3 is another class, a pixel is another number, a latent comes from another
autoencoder. Each of these is a difference with a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdiff.data import Dataset, Normalisation

DIFFERENCES = ("classes", "normalisation", "autoencoder", "shape", "conditions")
TOLERANCE = 1e-5  # of shift and scale, in units of the scale; statistics of the same data differ by less
ROUNDING = 2e-7  # of a float32 number, such as the shift, relative to it
SHOWN = 3  # classes, and numbers of a normalisation, in a message

Facts = Mapping[str, Any]  # the content of data.json


def facts_of(dataset: Dataset) -> dict[str, Any]:
    """What data.json would record of a data set, without its statistics, which take time."""
    return {
        "name": dataset.name,
        "shape": list(dataset.shape),
        "num_classes": dataset.num_classes,
        "normalisation": dataset.normalisation.describe(),
        "fingerprint": dataset.fingerprint,
        **dataset.about,
        **({"conditions": {name: each.describe() for name, each in dataset.conditions.items()}} if dataset.conditions else {}),
    }


def differences(old: Facts, new: Facts, folder: object) -> dict[str, str]:
    """What differs between the data of the run in `folder` and new data, by name and in words."""
    found = {}
    if old["shape"] != new["shape"]:
        found["shape"] = f"the samples have the shape {tuple(new['shape'])}; those of {folder} have {tuple(old['shape'])}"
    if classes := _classes(old, new, folder):
        found["classes"] = classes
    if _identity(old) != _identity(new):
        found["autoencoder"] = f"the samples are {_kind(new)}; those of {folder} are {_kind(old)}"
    theirs, ours = (Normalisation.from_description(facts["normalisation"]) for facts in (old, new))
    if not _same(theirs, ours, tuple(old["shape"])):
        found["normalisation"] = f"the data are normalised by {_in_words(ours)}; those of {folder} by {_in_words(theirs)}"
    if conditions := _conditions(old.get("conditions", {}), new.get("conditions", {}), folder):
        found["conditions"] = conditions
    return found


def _conditions(old: Facts, new: Facts, folder: object) -> str:
    """How the conditions besides the label differ; empty if they are the same."""
    theirs, ours = ({name: f"{each['kind']} of shape {tuple(each['shape'])}" for name, each in of.items()} for of in (old, new))
    if theirs != ours:
        now, before = ("; ".join(f"{name}, a {what}" for name, what in each.items()) or "none" for each in (ours, theirs))
        return f"the data have other conditions ({now}) than those of {folder} ({before})"
    for name, each in new.items():
        was, is_now = (Normalisation.from_description(of["normalisation"]) for of in (old[name], each))
        if not _same(was, is_now, tuple(each["shape"])):
            return f"the condition {name} is normalised by {_in_words(is_now)}; that of {folder} by {_in_words(was)}"
    return ""


def nameless(old: Facts, new: Facts, folder: object) -> str:
    """The places that do not record the names of their classes, although these should be compared; empty if there are none."""
    if not new["num_classes"] or old["fingerprint"] == new["fingerprint"]:
        return ""
    return " and ".join(str(name) for name, facts in ((folder, old), (new["name"], new)) if not facts.get("class_names"))


def _classes(old: Facts, new: Facts, folder: object) -> str:
    """How the classes differ; empty if they are the same, or if that cannot be known."""
    if old["num_classes"] != new["num_classes"]:
        return f"the data have {new['num_classes']} classes; those of {folder} have {old['num_classes']}"
    theirs, ours = old.get("class_names"), new.get("class_names")
    if not (theirs and ours):
        return ""
    other = [number for number, (there, here) in enumerate(zip(theirs, ours)) if there != here]
    examples = ", ".join(f"{number} is {ours[number]!r} and was {theirs[number]!r}" for number in other[:SHOWN])
    more = f" ({len(other)} in all)" if len(other) > SHOWN else ""
    return f"the data have other classes than those of {folder}: number {examples}{more}" if other else ""


def _identity(facts: Facts) -> str | None:
    """The identity of the autoencoder of latents; None for other samples."""
    return facts["latents"]["autoencoder"]["identity"] if facts.get("latents") else None


def _kind(facts: Facts) -> str:
    if not facts.get("latents"):
        return "not latents"
    autoencoder = facts["latents"]["autoencoder"]
    return f"latents of the autoencoder {autoencoder['source']} (identity {autoencoder['identity']})"


def _same(theirs: Normalisation, ours: Normalisation, shape: tuple[int, ...]) -> bool:
    """Whether two normalisations map raw samples of this shape to the same values, up to rounding."""
    try:
        old, old_scale, new, new_scale = (
            value.double().expand(shape) for value in (theirs.shift, theirs.scale, ours.shift, ours.scale)
        )
    except RuntimeError:  # a shift of another shape
        return False
    shifted, scaled = (new - old).abs() / old_scale, (new_scale / old_scale - 1).abs()
    return bool((shifted <= TOLERANCE + ROUNDING * old.abs() / old_scale).all() and (scaled <= TOLERANCE).all())


def _in_words(normalisation: Normalisation) -> str:
    if normalisation.kind == "none":
        return "none"
    shift, scale = (_numbers(value) for value in (normalisation.shift, normalisation.scale))
    return f"{normalisation.kind} (shift {shift}, scale {scale})"


def _numbers(value: Tensor) -> str:
    shown = " ".join(f"{number:.6g}" for number in value.flatten()[:SHOWN].tolist())
    return f"{shown} … in {value.numel()} numbers" if value.numel() > SHOWN else shown
