"""Files and dictionaries of published weights: finding the state dict in them, without executing anything.

`.safetensors` files hold only tensors. `.pth`, `.pt` and `.ckpt` files are pickles. They are read by torch's own reader,
`torch.load(weights_only=True)`, which makes tensors and containers and refuses every other class except those in ALLOWED. This
is the only place in the package that reads a pickle.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

# Training scripts store their arguments beside the weights, in a namespace. It holds values and runs nothing.
ALLOWED = [Namespace]
# Prefixes that wrappers put before every key: DistributedDataParallel, torch.compile, and JiT's training module.
PREFIXES = ("module.", "_orig_mod.", "net.")

PICKLES = (".pth", ".pt", ".ckpt")

Weights = Mapping[str, Any] | str | os.PathLike[str]


def read_weights(source: Weights, entry: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file or dictionary, without the prefixes of wrappers.

    If a checkpoint holds several (network, moving average, …), the moving average is taken: "ema", "model_ema" or another name
    with "ema" in it; of JiT's two, the first ("model_ema1"). Without one, "model" or "state_dict" is taken, or the only one.

    Args:
        source: a path to a `.safetensors`, `.pth`, `.pt` or `.ckpt` file, a state dict, or a dictionary that holds state dicts.
        entry: the name of the state dict to take, if there are several.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is of another kind, damaged, or holds more than weights; no such entry, or several to choose from.
        TypeError: there is no state dict.
    """
    found = _read(Path(source)) if isinstance(source, str | os.PathLike) else source
    state = _choose(found, entry)
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix not in (".safetensors", *PICKLES):
        raise ValueError(f"{path.name} is no file of weights; expected a name that ends in .safetensors, {', '.join(PICKLES)}")
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # These calls are used because torch 2.4 has no context manager for them.
        before = torch.serialization.get_safe_globals()
        torch.serialization.add_safe_globals(ALLOWED)  # type: ignore[arg-type]
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        finally:
            after = torch.serialization.get_safe_globals()
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals([kind for kind in after if kind in before or kind not in ALLOWED])
    except Exception as error:  # a damaged file can fail in many ways
        # torch's message begins with advice on how to read the file anyway, which would run its content.
        class_name = re.search(r"[Uu]nsupported (?:\w+: )?GLOBAL (\S+)", str(error))
        first = next(
            (line for line in str(error).strip().splitlines() if "weights_only" not in line), "it holds more than tensors"
        )
        reason = f"it holds a {class_name[1]}" if class_name else first
        raise ValueError(
            f"{path.name} cannot be read as weights ({reason}). It is damaged, or it holds objects besides tensors, which may "
            "run code. If you trust the file, load it yourself and pass its state dict"
        ) from error


def _choose(found: Any, entry: str | None) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise TypeError(
            f"the weights are of type {type(found).__name__}; expected a state dict, or a dictionary that holds one"
        )
    if entry is None and _is_state(found):
        return dict(found)
    states = {name: value for name, value in found.items() if _is_state(value)}
    if entry is not None:
        if entry not in states:
            raise ValueError(f"no state dict is called {entry!r}; found {', '.join(states) or 'at most one without a name'}")
        return dict(states[entry])
    if not states:
        others = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
        raise TypeError(
            f"there are no tensors under {', '.join(others) or 'any key'}; expected a state dict or a checkpoint with one"
        )
    averages = [name for name in states if "ema" in name.lower()]
    if "model_ema1" in averages:
        averages = [name for name in averages if name != "model_ema2"]
    plain = [name for name in states if name in ("model", "state_dict")]
    best = averages or plain or list(states)
    if len(best) > 1:
        raise ValueError(f"the checkpoint holds {', '.join(states)}; name one of them, as in entry={best[0]!r}")
    return dict(states[best[0]])


def _is_state(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())
