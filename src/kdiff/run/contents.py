"""What the files of a run folder hold, checked where they are read, and what a checkpoint records of them.

A checkpoint's state.json has an entry `run`: the length and the digest of metrics.jsonl, and a digest for each entry of
data.json and config.yaml that decides what samples are. So a change of these files since the checkpoint is found when they are
read. Checkpoints of older versions have no such entry, and their folders are read without this check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdiff.config.training import CHANGEABLE
from kdiff.files.atomic import Damaged, digest, read_json
from kdiff.files.schema import Numbers, problem
from kdiff.run.yaml_file import load_yaml

BACK = "restore it from a copy"
BACK_OR_RENAME = f"{BACK}, or rename it"
AGAIN = f"{BACK}, or resume the run (kdiff train … --resume), which writes it again"
NUMBER = (float, None)  # JSON has no NaN and no infinity
NORMALISATION = {"kind": str, "shift": Numbers, "scale": Numbers}
CONDITION = {"name": str, "kind": str, "shape": [int], "num_classes": int, "normalisation": NORMALISATION}
CONDITION["range?"] = {"low": [float], "high": [float]}
DATA = {
    "name": str,
    "shape": [int],
    "num_classes": int,
    "class_counts": ([int], None),
    "counts": {"train": int, ...: int},
    "normalisation": NORMALISATION,
    "fingerprint": str,
    "min": NUMBER,
    "max": NUMBER,
    "total_variance": NUMBER,
    "class_names?": ([str], None),
    "conditions?": {...: CONDITION},
    "latents?": {
        "folder": str,
        "autoencoder": {"source": str, "identity": str},
        "images": {"shape": [int], "normalisation": NORMALISATION},
    },
}
ROW = {"step": int, "loss": NUMBER, ...: NUMBER}
FINISHED = {"seconds": NUMBER, "last": {"loss": NUMBER, ...: NUMBER}, "heldout?": {"psnr": NUMBER, ...: NUMBER}}
AXIS = {"low": float, "high": float, "names": {...: str}}
CURVE = {"name": str, "over": str, "at": [NUMBER], "values": [NUMBER]}
TARGET = {"scalars": {...: float}, "axis": (AXIS, None), "curves": [CURVE]}
START = {"source": str, "velocity_change": {...: float}, "k?": float, "target_state?": {...: float}}
ENVIRONMENT = {
    **dict.fromkeys(("command", "date", "python", "platform", "device"), str),
    "packages": {...: (str, None)},
    "threads": int,
    "resumed?": [{"micro_batches?": int}],
    "micro_batches?": int,
}
STAMP = {"weights?": str, "options?": {"solver?": str, "steps?": int}}
FIGURE = {"value": NUMBER, "grouped": NUMBER, "spread?": NUMBER}
SAMPLER = {
    "options": {"solver": str, "steps": int, "guidance": float},
    "figures": {...: FIGURE},
    "exact?": {...: {"value": NUMBER}},
}
EVALUATION = {
    "k": NUMBER,
    "target_state?": {...: NUMBER},
    "job?": {"config": {...: object}},
    "seconds?": float,
    "samplers": {...: SAMPLER},
}
JUDGED = {
    **dict.fromkeys(("step", "num_samples", "group_size", "seed"), int),
    "weights": str,
    "heldout": {...: FIGURE},
    "samplers": {"paper?": SAMPLER, "clean": SAMPLER},
}
_LINE = {"measure": str, "sampler": str, "value": NUMBER, "floor": NUMBER, "baseline?": NUMBER}
_LINE |= dict.fromkeys(("spread?", "floor_spread?"), NUMBER)
_OWN = {**dict.fromkeys(("seed", "heldout_of"), int), "figures": [_LINE], "left_out?": {...: str}}
JUDGED |= {key: {**_OWN, "samples": int, "heldout": int} for key in ("fields?", "table?")}
JUDGED |= {"ensemble?": {**_OWN, "conditions": int, "members": int}, "pictures?": [str]}
MOVING = {"data.json": ("name", "latents"), "config.yaml": (*CHANGEABLE, "data", "start_from")}  # may differ in a resumed run


def read_data(folder: Path, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of data.json.

    Raises:
        ValueError: the file is missing or damaged, or has changed since a checkpoint recorded it (`record`).
    """
    path = folder / "data.json"
    data: dict[str, Any] = read_json(path, DATA, AGAIN)
    check_recorded(path, data, recorded or {})
    return data


def data_to_resume(folder: Path, recorded: Mapping[str, Any], now: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What data.json says of the data of a run that is resumed, and what was wrong with the file, if that can be mended.

    A damaged file is replaced by `now`, the description of the data as they are, if that is what a checkpoint recorded.

    Raises:
        ValueError: the file is missing or damaged, and it is not known that the data are the same.
    """
    try:
        return read_data(folder, recorded), ""
    except Damaged as error:
        plain = json.loads(json.dumps(now))  # lists in place of tuples, as in the file
        if "data.json" not in recorded:
            raise
        check_recorded(folder / "data.json", plain, recorded)
        return plain, error.what


def read_evaluation(path: Path) -> dict[str, Any]:
    """The content of evaluation.json, as `kdiff evaluate` and the runs of comparisons write it.

    Raises:
        ValueError: the file is missing or damaged.
    """
    back = f"{BACK_OR_RENAME} and judge the run again"
    found: dict[str, Any] = read_json(path, EVALUATION, back)
    if found["samplers"]:
        text = problem(found, JUDGED)
        for name, sampler in {} if text else found["samplers"].items():
            lacking = found["heldout"].keys() - sampler["figures"].keys()
            text = text or (f"samplers.{name}.figures.{min(lacking)} is missing" if lacking else "")
        if text:
            raise ValueError(f"{path} is damaged: {text}; {back}")
    return found


def read_start(folder: Path) -> dict[str, Any]:
    """The content of start.json; empty for a run with random initial weights. Raises ValueError if it is damaged."""
    path = folder / "start.json"
    start: dict[str, Any] = read_json(path, START, BACK) if path.exists() else {}
    if start and not start["velocity_change"]:
        raise ValueError(f"{path} is damaged: velocity_change is empty; {BACK}")
    return start


def read_finished(folder: Path) -> dict[str, Any]:
    """The content of finished.json. Raises ValueError if it is missing or damaged."""
    finished: dict[str, Any] = read_json(folder / "finished.json", FINISHED, AGAIN)
    return finished


def record_settings(folder: Path) -> dict[str, Any]:
    """The part of a checkpoint's entry `run` that is the same in all its checkpoints. Files that do not exist are left out."""
    found = {}
    for name in ("data.json", "config.yaml"):
        if (path := folder / name).exists():
            text = path.read_text(encoding="utf-8")
            values = json.loads(text) if name == "data.json" else load_yaml(text, path)
            found[name] = {key: _short(value) for key, value in values.items() if key not in MOVING[name]}
    return found


def record_metrics(folder: Path) -> dict[str, Any]:
    """The part of a checkpoint's entry `run` for metrics.jsonl as it is now; empty if there is none."""
    metrics = folder / "metrics.jsonl"
    if not metrics.exists():
        return {}
    content = metrics.read_bytes()
    return {metrics.name: {"bytes": len(content), "blake2b": digest(content)}}


RECORD = {
    "metrics.jsonl?": {"bytes": int, "blake2b": str},
    "data.json?": {...: str},
    "config.yaml?": {...: str},
}


def check_recorded(path: Path, values: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Raise ValueError if the content of data.json or config.yaml is not what a checkpoint recorded."""
    digests = {key: wanted for key, wanted in recorded.get(path.name, {}).items() if key not in MOVING[path.name]}
    if changed := [key for key, wanted in digests.items() if key not in values or _short(values[key]) != wanted]:
        back = AGAIN if path.name == "data.json" else BACK
        raise Damaged(f"{path} is damaged: {', '.join(changed)} changed since the checkpoint was written", back)


def check_recorded_config(folder: Path, recorded: Mapping[str, Any]) -> None:
    """Raise ValueError if config.yaml is not what a checkpoint recorded, settings that may change in a resumed run aside."""
    path = folder / "config.yaml"
    if path.name in recorded:
        check_recorded(path, load_yaml(path.read_text(encoding="utf-8"), path), recorded)


def digest_of(value: Any) -> str:
    """A hash of a value of JSON or YAML, as 32 hex digits."""
    return digest(json.dumps(value, sort_keys=True, default=str).encode())


def _short(value: Any) -> str:
    return digest_of(value)[:16]
