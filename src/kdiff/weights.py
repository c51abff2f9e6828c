"""Files and dictionaries of published weights: a state dict found in them, and nothing executed.

`.safetensors` holds tensors alone. `.pth`, `.pt` and `.ckpt` are pickles, and are read by `torch.load(weights_only=True)`: its
own reader, which makes tensors and containers and refuses every other class but those in ALLOWED. This is the one place of the
package that reads a pickle at all.
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

# What training scripts put beside the weights: their arguments. A namespace holds values and runs nothing.
ALLOWED = [Namespace]
# What wrappers put before every key: DistributedDataParallel, torch.compile, and JiT's training module.
PREFIXES = ("module.", "_orig_mod.", "net.")

PICKLES = (".pth", ".pt", ".ckpt")

Weights = Mapping[str, Any] | str | os.PathLike[str]


def read_weights(source: Weights, entry: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file or dictionary, without the prefixes of wrappers.

    Of a checkpoint that holds several (network, moving average, …) one is taken: the moving average, "ema", "model_ema" or
    another with "ema" in its name, of JiT's two the first ("model_ema1"), else "model" or "state_dict", else the only one.

    Args:
        source: a path to a `.safetensors`, `.pth`, `.pt` or `.ckpt` file, a state dict, or a dictionary that holds state dicts.
        entry: which of several to take, by its name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, or one that cannot be read as weights alone; no such entry; several to choose from.
        TypeError: no state dict.
    """
    found = _read(Path(source)) if isinstance(source, str | os.PathLike) else source
    state = _choose(found, entry)
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix not in (".safetensors", *PICKLES):
        raise ValueError(f"{path.name} is no file of weights; expected one that ends in .safetensors, {', '.join(PICKLES)}")
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # By these calls, for torch 2.4 has no context manager around them.
        before = torch.serialization.get_safe_globals()
        torch.serialization.add_safe_globals(ALLOWED)  # type: ignore[arg-type]
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        finally:
            after = torch.serialization.get_safe_globals()
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals([kind for kind in after if kind in before or kind not in ALLOWED])
    except Exception as error:  # a damaged file fails in many ways
        # torch says first how to read it all the same, by running what is in it.
        class_name = re.search(r"[Uu]nsupported (?:\w+: )?GLOBAL (\S+)", str(error))
        first = next((line for line in str(error).strip().splitlines() if "weights_only" not in line), "no tensors alone")
        reason = f"it holds a {class_name[1]}" if class_name else first
        raise ValueError(
            f"{path.name} cannot be read as weights ({reason}); it is damaged, or holds objects besides tensors, which may run "
            "code. If you trust it, load it yourself and pass its state dict"
        ) from error


def _choose(found: Any, entry: str | None) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise TypeError(f"the weights are {type(found).__name__}; expected a state dict, or a dictionary that holds one")
    if entry is None and _is_state(found):
        return dict(found)
    states = {name: value for name, value in found.items() if _is_state(value)}
    if entry is not None:
        if entry not in states:
            raise ValueError(f"no state dict is called {entry!r}; it holds {', '.join(states) or 'at most one without a name'}")
        return dict(states[entry])
    if not states:
        others = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
        raise TypeError(
            f"no tensors under {', '.join(others) or 'any key'}; expected a state dict, or a checkpoint that holds one"
        )
    averages = [name for name in states if "ema" in name.lower()]
    if "model_ema1" in averages:
        averages = [name for name in averages if name != "model_ema2"]
    plain = [name for name in states if name in ("model", "state_dict")]
    best = averages or plain or list(states)
    if len(best) > 1:
        raise ValueError(f"the checkpoint holds {', '.join(states)}; expected to be told which, as in entry={best[0]!r}")
    return dict(states[best[0]])


def _is_state(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())
