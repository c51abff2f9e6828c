"""The calibrations of a run, each beside the weights that it was found for: safetensors and JSON, whole or not at all.

RUN/calibration/step_00004000_ema_0.999/calibration.safetensors     basis, knots, h, centre
                                        calibration.json            the weights' step, name and checksum, how it was found and
                                                                    judged, whether it is adopted, and checksums of all this

`load_run` gives the model of a run the calibration of its very weights, if it is adopted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdiff.files.atomic import Damaged, file_digest, new_folder, read_json, write_json
from kdiff.files.tensors import load_tensors, load_weights, save_tensors
from kdiff.run.contents import digest_of
from kdiff.targets.bases import make_basis
from kdiff.targets.calibration import Calibration

FOLDER, TENSORS, FACTS = "calibration", "calibration.safetensors", "calibration.json"
FORMAT = 1
SCHEMA = {
    "format": int,
    "step": int,
    "weights": str,
    "weights_digest": str,
    "adopted": bool,
    "basis": {"kind": str, "size": (int, None)},
    "shape": [int],
    "knots": int,
    "tensors": {"bytes": int, "blake2b": str},
    "blake2b": str,
    ...: object,
}


def calibration_place(folder: Path, step: int, weights: str) -> Path:
    """The folder for the calibration of these weights of a run: "raw", or an average such as "ema 0.999"."""
    return folder / FOLDER / f"step_{step:08d}_{weights.replace(' ', '_')}"


def plain_calibration(calibration: Calibration) -> dict[str, Any]:
    """What `built_calibration` needs besides the tensors, for JSON."""
    basis = calibration.basis
    return {
        "basis": {"kind": basis.kind, "size": getattr(basis, "size", None)},
        "shape": list(basis.shape),
        "knots": len(calibration.knots),
    }


def built_calibration(plain: Mapping[str, Any]) -> Calibration:
    """A calibration of this kind, for the tensors to be loaded into. Raises ValueError if there is none."""
    if not plain["knots"] > 0:
        raise ValueError(f"knots is {plain['knots']}; expected at least 1")
    basis = make_basis(plain["basis"]["kind"], tuple(plain["shape"]), size=plain["basis"]["size"])
    return Calibration(basis, torch.linspace(0, 1, plain["knots"]))


def save_calibration(
    place: Path, calibration: Calibration, adopted: bool, step: int, weights: str, weights_digest: str, facts: Mapping[str, Any]
) -> None:
    """Write a calibration and the facts about it into its folder, in place of an earlier one."""
    place.parent.mkdir(exist_ok=True)
    with new_folder(place) as new:
        save_tensors(new / TENSORS, calibration.state_dict())
        stored = {"bytes": (new / TENSORS).stat().st_size, "blake2b": file_digest(new / TENSORS)}
        written = {"format": FORMAT, "step": step, "weights": weights, "weights_digest": weights_digest, "adopted": adopted}
        written |= {**plain_calibration(calibration), **facts, "tensors": stored}
        write_json(new / FACTS, written)
        # The checksum is that of the values as JSON gives them back: tuples are lists, and NaN is null.
        write_json(new / FACTS, {**written, "blake2b": digest_of(read_json(new / FACTS))})


def read_facts(place: Path, back: str = "") -> dict[str, Any]:
    """The facts about a calibration.

    Raises:
        Damaged: the file is missing or damaged.
        ValueError: a newer version of kdiff has written it.
    """
    path = place / FACTS
    facts: dict[str, Any] = read_json(path, {"format": int, ...: object}, back)
    if facts["format"] > FORMAT:
        raise ValueError(f"{path} has format {facts['format']}; this version of kdiff reads format {FORMAT}")
    facts = read_json(path, SCHEMA, back)
    if digest_of({key: value for key, value in facts.items() if key != "blake2b"}) != facts["blake2b"]:
        raise Damaged(f"{path} is damaged: its checksum has changed since it was written", back)
    return facts


def read_calibration(place: Path, back: str = "") -> Calibration:
    """A calibration from its folder. Raises the errors of `read_facts`, also for damaged tensors."""
    facts, path = read_facts(place, back), place / TENSORS
    if not path.is_file():
        raise Damaged(f"{path} is missing", back)
    if path.stat().st_size != facts["tensors"]["bytes"] or file_digest(path) != facts["tensors"]["blake2b"]:
        raise Damaged(f"{path} is damaged: its size or checksum has changed since it was written", back)
    try:
        calibration = built_calibration(facts)
        load_weights(calibration, load_tensors(path), path)
    except ValueError as error:
        raise Damaged(f"{place} is damaged: {error}", back) from None
    return calibration


def adopted_calibration(folder: Path, step: int, weights: str, weights_digest: str) -> Calibration | None:
    """The calibration that a run has adopted for these weights; None if there is none.

    A warning says so if the run has adopted calibrations for other weights only.

    Raises:
        Damaged: the calibration is damaged. The message says how to find it again or leave it out.
    """
    back = f"find it again (kdiff calibrate {folder}), or leave it out (--calibrated false)"
    place, others = calibration_place(folder, step, weights), []
    for each in sorted((folder / FOLDER).glob("step_*")):
        try:
            facts = read_facts(each, back)
        except ValueError:
            if each == place:
                raise
            continue
        if each == place and facts["weights_digest"] == weights_digest:
            return read_calibration(place, back) if facts["adopted"] else None
        if facts["adopted"]:
            others.append(f"step {facts['step']}, {facts['weights']}{' (since replaced)' if each == place else ''}")
    if others:
        warnings.warn(
            f"{folder} has a calibration of other weights ({'; '.join(others)}), which is not used for step {step}, {weights}; "
            f"find one for these by kdiff calibrate {folder}",
            stacklevel=3,
        )
    return None
