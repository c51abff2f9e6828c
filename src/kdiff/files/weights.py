"""Files and dictionaries of published weights: finding the state dict in them, without executing anything.

`.safetensors` files hold only tensors. `.pth`, `.pt` and `.ckpt` files are pickles. They are read by torch's own reader,
`torch.load(weights_only=True)`, which makes tensors and containers and refuses every other class except those in ALLOWED. This
is the only place in the package that reads a pickle.
"""

from __future__ import annotations

import os
import re
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Collection, Mapping
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
        entry: the name of the state dict to take, if there are several; or of a part of one, such as "online_model" for the
            weights called online_model.….

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


def unwrapped(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The weights with these names, where a wrapper has put a prefix before them and other tensors beside them.

    So have torch's AveragedModel (module.…, n_averaged), ema-pytorch (ema_model.…, online_model.…) and Lightning, where the
    prefix is the name of an attribute. The prefix under which most of the names are found is taken; of several, a moving
    average, which has "ema" in its prefix. Without a prefix all tensors are returned.

    Raises:
        ValueError: there are several such prefixes.
    """
    wanted, found = set(names), Counter[str]()
    for key in state:
        starts = [0, *(match.end() for match in re.finditer(r"\.", key))]
        found.update(key[:start] for start in starts if key[start:] in wanted)
    most = max(found.values(), default=0)
    best = [prefix for prefix, count in found.items() if count == most]
    if not best or "" in best:
        return dict(state)
    averages = [prefix for prefix in best if "ema" in prefix.lower()]
    chosen = averages or best
    if len(chosen) > 1:
        places = [prefix.removesuffix(".") for prefix in best]
        listed = f"{', '.join(places[:-1])} and {places[-1]}"
        raise ValueError(f"the file holds these weights more than once, under {listed}; name one, as in entry={places[0]!r}")
    return {key.removeprefix(chosen[0]): value for key, value in state.items() if key.startswith(chosen[0])}


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
            "run code. If you trust the file, load it yourself and pass its state dict, or save that by torch.save and name "
            "the new file"
        ) from error


def _choose(found: Any, entry: str | None) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise TypeError(
            f"the weights are of type {type(found).__name__}; expected a state dict, or a dictionary that holds one"
        )
    whole = _tensors(found)
    states = {"": whole} if whole else dict[str, dict[str, Tensor]]()
    for name, value in {} if states else found.items():
        inner = {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, Mapping) else {}
        states |= {key: _tensors(item) for key, item in {name: value, **inner}.items() if _tensors(item)}
    if entry is not None:
        if entry in states:
            return states[entry]
        parts = [{key: value for key, value in state.items() if key.startswith(f"{entry}.")} for state in states.values()]
        if len(parts := [part for part in parts if part]) == 1:
            return {key.removeprefix(f"{entry}."): value for key, value in parts[0].items()}
        raise ValueError(
            f"no state dict is called {entry!r}; found {', '.join(filter(None, states)) or 'at most one without a name'}"
        )
    nameless = [
        str(name) for name, value in {"": found, **found}.items() if isinstance(value, Mapping) and "shadow_params" in value
    ]
    if not states:
        others = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
        if nameless:
            raise ValueError(
                "the file holds a moving average as a list without names (shadow_params), as diffusers' EMAModel and torch_ema "
                "write it; expected a state dict. Type ema.copy_to(network.parameters()), torch.save(network.state_dict(), "
                "'ema.pt') where the network is made, and name that file"
            )
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
    if nameless and not averages:
        warnings.warn(
            f"the moving average in the checkpoint (under {nameless[0] or 'shadow_params'}) has no names and is not used; the "
            f"weights under {best[0]} are",
            stacklevel=2,
        )
    return states[best[0]]


def _tensors(value: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, in which counters may be plain numbers; empty if it is none."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return {}
    found = {key: item for key, item in value.items() if isinstance(item, Tensor)}
    others = [item for key, item in value.items() if key not in found]
    return found if all(item is None or isinstance(item, bool | int | float | str) for item in others) else {}
