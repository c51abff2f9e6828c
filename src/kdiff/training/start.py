"""Start training from published weights or the weights of a run, converted to the target to be trained.

A network that predicts u = a x − b n (a, b constant) predicts u′ = a′ x − b′ n with a′/b′ = a/b exactly, if its last layer is
multiplied by (a′ + b′)/(a + b). So velocity prediction becomes a learned k of ½ exactly. Data and noise prediction become a
learned k close to theirs, which is not exact (`kdiff.published.finetune`); the change of the velocity is measured and reported.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdiff.config.parts import Part, Spec, parse, resolve
from kdiff.config.training import ModelConfig, TrainConfig
from kdiff.data import Samples
from kdiff.files.tensors import load_weights
from kdiff.files.weights import read_weights
from kdiff.model import KDiff
from kdiff.networks import load_official
from kdiff.path import LinearPath
from kdiff.published import as_model, velocity_change
from kdiff.published.finetune import scale_output
from kdiff.run.run import load_run
from kdiff.targets.constant import FixedK, LearnedK, is_constant, learned_from, rescaled

# The architectures with time from 0 to 1 on the linear path; DiT and U-ViT have their own times and paths.
PUBLISHED = ("jit", "sit", "lightningdit")
TABLES = ("y_embedder.embedding_table.weight", "label.weight")  # tables of labels of the transformers, and of the MLP
SHOWN = 2  # samples on which the change is measured; a large network takes seconds for each


def start_from(model: KDiff, config: TrainConfig, x: Samples, y: Tensor | None) -> dict[str, Any]:
    """Load the weights that `config.start_from` names into a model; returns the content of start.json.

    Args:
        model: built from the configuration. Its network gets the weights; its target gets their k.
        config: the configuration.
        x: samples; the change of the velocity is measured on the first two.
        y: their labels, or None.

    Raises:
        FileNotFoundError: the weights do not exist.
        ValueError: the weights belong to another network, path or noise scale, or to a target that cannot be converted to the
            model's; or the source has no such option.
    """
    source, labels = find_source(config.start_from or "")
    find = _published if source.name in PUBLISHED else _of_run
    before, facts = find(source, model, config, labels == "new")
    init = next(iter(config.target.values), config.target.options.get("init"))  # learned(0.9) or learned(init=0.9)
    factor = _take_target(model, before, init)
    if factor != 1:
        scale_output(model.network, factor)
    conditions: dict[str, Any] = {} if y is None else {"y": y[:SHOWN]}
    changes = velocity_change(before.eval(), model.eval(), x[:SHOWN], **conditions)
    state = model.target.state()
    return {**facts, "labels": labels, "factor": factor, **state, "target_state": state, "velocity_change": changes}


def _published_options(weights: str, entry: str | None = None, labels: str = "same") -> dict[str, Any]:
    return {"weights": weights, "entry": entry, "labels": labels}


def _run_options(checkpoint: int | None = None, ema: float | str | None = None, labels: str = "same") -> dict[str, Any]:
    return {"checkpoint": checkpoint, "ema": ema, "labels": labels}


def find_source(spec: Spec) -> tuple[Part, str]:
    """The source of the weights without its option `labels`, and that option; raises if the weights or options do not exist."""
    part = parse(spec)
    name, published = part.name, part.name in PUBLISHED
    if not published and not Path(name).is_dir():
        raise FileNotFoundError(
            f"start_from is {name}, which does not exist; expected a run folder or one of {', '.join(PUBLISHED)}, as in "
            "sit(weights='FILE')"
        )
    find = {name: _published_options if published else _run_options}
    options = {key: value for key, value in resolve("source of weights", part, find)().items() if value is not None}
    labels = options.pop("labels", "same")
    if labels not in ("same", "new"):
        raise ValueError(f"labels is {labels!r} in start_from; expected same, or new for other classes")
    if published and not Path(str(options["weights"])).exists():
        raise FileNotFoundError(f"start_from is {part}; found no weights at {options['weights']}")
    return Part(name, options), labels


def as_text(start: dict[str, Any]) -> str:
    """The content of start.json in one line."""
    time, most = max(start["velocity_change"].items(), key=lambda pair: pair[1])  # JSON turns times into text
    change = f"the velocity changes by at most {most:.2g} of its size (at t = {float(time):g})"
    moved = change if most else "the velocity is the same"
    state = start.get("target_state", {name: start[name] for name in ("k",) if name in start})  # older files have only k
    at = "".join(f" at {name} = {value:.4g}" for name, value in list(state.items())[:1])
    return f"starting from {start['source']}{at}; {moved}"


def _published(part: Part, model: KDiff, config: ModelConfig, new_labels: bool) -> tuple[KDiff, dict[str, Any]]:
    """The published model, and its entries in start.json."""
    name, path, entry = part.name, part.options["weights"], part.options.get("entry")
    if not isinstance(model.path, LinearPath):
        raise ValueError(f"path is {config.path!r}; expected linear, because {name} was trained on the linear path")
    load_official(name, model.network, _labelled(read_weights(path, entry), model.network, new_labels))
    before = as_model(name, copy.deepcopy(model.network), noise_scale=config.noise_scale)
    return before, {"source": str(part), "architecture": name}


def _of_run(part: Part, model: KDiff, config: ModelConfig, new_labels: bool) -> tuple[KDiff, dict[str, Any]]:
    """The model of another run with a copy of this model's network, and its entries in start.json."""
    folder = Path(part.name)
    run = load_run(folder, **part.options)
    for name in ("path", "noise_scale"):
        theirs, ours = getattr(run.config, name), getattr(config, name)
        if theirs != ours:
            raise ValueError(f"{name} is {ours}; expected {theirs}, with which {folder} was trained")
    state = _labelled(run.model.cpu().network.state_dict(), model.network, new_labels)
    load_weights(model.network, state, folder)
    run.model.network = copy.deepcopy(model.network)  # with its table of labels
    return run.model, {"source": str(part), "step": run.step, "weights": run.weights}


def _labelled(state: dict[str, Tensor], network: nn.Module, new: bool) -> dict[str, Tensor]:
    """The weights; if `new`, with the network's own rows for its classes. The last row, "no class", is kept."""
    own = network.state_dict()
    key = next((name for name in TABLES if name in own and name in state), None)
    if not new:
        if key and own[key].shape != state[key].shape and own[key].shape[1:] == state[key].shape[1:]:
            raise ValueError(
                f"the table of labels and “no class” has {len(state[key])} rows in the weights and {len(own[key])} in this "
                "network. To train on other classes, add labels=new, as in start_from NAME(…, labels=new)"
            )
        return state
    if key is None:
        raise ValueError(
            "labels is new in start_from, but the network or the weights have no table of labels; leave labels out"
        )
    table = own[key].clone()
    if table.shape[1:] == state[key].shape[1:]:  # else loading refuses them, as weights of another network
        table[-1] = state[key][-1]
    return {**state, key: table}


def _take_target(model: KDiff, before: KDiff, init: float | None) -> float:
    """Give the model's target the k of the weights; returns the factor for their last layer."""
    theirs, ours = before.target, model.target
    if isinstance(theirs, LearnedK):
        theirs = FixedK(theirs.k)
    if isinstance(ours, LearnedK):
        start, factor = learned_from(theirs, init, ours.rate)
        ours.load_state_dict(start.state_dict())
        return factor
    if is_constant(ours) and is_constant(theirs):
        return rescaled(theirs, ours)
    if type(ours) is not type(theirs):
        raise ValueError(f"target is {ours}, but the weights belong to the target {theirs}; expected the same, or learned")
    try:
        ours.load_state_dict(theirs.state_dict())
    except RuntimeError as error:
        raise ValueError(f"target is {ours}, but the weights belong to the target {theirs}: {error}") from None
    return 1.0
