"""Weights that training starts from, instead of drawn ones: published ones, or a run's, turned to the target that is trained.

A network trained for u = a x − b n, a and b constant, says the same for u′ = a′ x − b′ n with a′/b′ = a/b once its last layer
is multiplied by (a′ + b′)/(a + b): so velocity prediction becomes a learned k of ½, exactly. Data and noise prediction become a
learned k close by, which is not exact (`kdiff.interop.finetune`); how far the velocity moves is measured and told.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.components import Component, Spec, parse
from kdiff.data import Samples
from kdiff.interop import as_model, velocity_change
from kdiff.interop.finetune import last_layer
from kdiff.model import KDiff
from kdiff.networks import load_official
from kdiff.path import LinearPath
from kdiff.target.constant import FixedK, Learned, LearnedK, learned_from, rescaled
from kdiff.training.checkpoint import load_weights
from kdiff.training.config import ModelConfig, TrainConfig
from kdiff.weights import read_weights

# Those that count time from 0 to 1 on the linear path; DiT and U-ViT keep times and paths of their own.
PUBLISHED = ("jit", "sit", "lightningdit")
TABLES = ("y_embedder.embedding_table.weight", "label.weight")  # of labels: the transformers', and the MLP's
SHOWN = 2  # samples that the change is measured on: a large network takes seconds for each


def start_from(model: KDiff, config: TrainConfig, x: Samples, y: Tensor | None) -> dict[str, Any]:
    """Put the weights that config.start_from names into a model; returns what start.json says.

    Args:
        model: as configured. Its network gets the weights, its target the k that they belong to.
        config: the configuration.
        x: samples that tell how far the velocity moves; two are looked at.
        y: their labels, or None.

    Raises:
        FileNotFoundError: no such weights.
        ValueError: weights of another network, path or noise, or of a target that this one cannot go on from; options that
            the source does not have.
    """
    source, labels = find_source(config.start_from or "")
    find = _published if source.name in PUBLISHED else _of_run
    before, facts = find(source, model, config, labels == "new")
    factor = _take_target(model, before, parse(config.target).options.get("init"))
    if factor != 1:
        with torch.no_grad():
            for parameter in last_layer(model.network).parameters():
                parameter.mul_(factor)
    conditions: dict[str, Any] = {} if y is None else {"y": y[:SHOWN]}
    changes = velocity_change(before.eval(), model.eval(), x[:SHOWN], **conditions)
    return {**facts, "labels": labels, "factor": factor, **model.target.state(), "velocity_change": changes}


def find_source(spec: Spec) -> tuple[Component, str]:
    """The weights that are named, without the option `labels`, and that.

    Raises:
        FileNotFoundError: no such weights.
        ValueError: options that the source does not have.
    """
    component = parse(spec)
    name, options = component.name, dict(component.options)
    labels = options.pop("labels", "same")
    if labels not in ("same", "new"):
        raise ValueError(f"labels is {labels!r} in start_from; expected same, or new for a table of other classes")
    published = name in PUBLISHED
    unknown = sorted(options.keys() - ({"weights", "entry"} if published else {"checkpoint", "ema"}))
    if published and (unknown or "weights" not in options):
        wrong = f"unknown {', '.join(unknown)}" if unknown else "no weights"
        raise ValueError(f"{wrong} in start_from; expected {name}(weights='FILE'), and at most entry and labels besides")
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)} in start_from; expected checkpoint, ema and labels of a run")
    if published and not Path(str(options["weights"])).exists():
        raise FileNotFoundError(f"start_from is {component}: no weights at {options['weights']}")
    if not published and not Path(name).is_dir():
        raise FileNotFoundError(
            f"start_from is {name}: no such run folder, and none of {', '.join(PUBLISHED)}, as in sit(weights='FILE')"
        )
    return Component(name, options), labels


def as_text(start: dict[str, Any]) -> str:
    """What start.json says, in a line."""
    time, most = max(start["velocity_change"].items(), key=lambda pair: pair[1])  # read back from JSON, times are text
    moved = (
        f"the velocity changes by {most:.2g} of its size at most (at t = {float(time):g})"
        if most
        else "the velocity is the same"
    )
    return f"starting from {start['source']}" + (f" at k = {start['k']:.4g}" if "k" in start else "") + f"; {moved}"


def _published(component: Component, model: KDiff, config: ModelConfig, new_labels: bool) -> tuple[KDiff, dict[str, Any]]:
    """The published model, and what it is."""
    name, path, entry = component.name, component.options["weights"], component.options.get("entry")
    if not isinstance(model.path, LinearPath):
        raise ValueError(f"{name} was trained on the linear path; path is {config.path!r}, expected linear")
    load_official(name, model.network, _labelled(read_weights(path, entry), model.network, new_labels))
    before = as_model(name, copy.deepcopy(model.network), noise_scale=config.noise_scale)
    return before, {"source": str(component), "architecture": name}


def _of_run(component: Component, model: KDiff, config: ModelConfig, new_labels: bool) -> tuple[KDiff, dict[str, Any]]:
    """The model of another run, with this one's network, and what it is."""
    from kdiff.training.run import load_run  # which imports this module

    folder = Path(component.name)
    run = load_run(folder, **component.options)
    for name in ("path", "noise_scale"):
        theirs, ours = getattr(run.config, name), getattr(config, name)
        if theirs != ours:
            raise ValueError(f"{folder} was trained with {name} {theirs}; found {ours}, expected the same to start from it")
    state = _labelled(run.model.cpu().network.state_dict(), model.network, new_labels)
    load_weights(model.network, state, folder)
    run.model.network = copy.deepcopy(model.network)  # with its table of labels
    return run.model, {"source": str(component), "step": run.step, "weights": run.weights}


def _labelled(state: dict[str, Tensor], network: nn.Module, new: bool) -> dict[str, Tensor]:
    """The weights, with the network's own new rows for its classes if those are others; "no class", the last row, is kept."""
    own = network.state_dict()
    key = next((name for name in TABLES if name in own and name in state), None)
    if not new:
        if key and own[key].shape != state[key].shape and own[key].shape[1:] == state[key].shape[1:]:
            raise ValueError(
                f"the weights have a table of {len(state[key])} rows for labels and “no class”, this network one of "
                f"{len(own[key])}: other classes? Then add labels=new, as in start_from NAME(…, labels=new)"
            )
        return state
    if key is None:
        raise ValueError("labels is new in start_from, and network or weights have no table of labels; leave it out")
    table = own[key].clone()
    if table.shape[1:] == state[key].shape[1:]:  # else the weights are of another network, which who loads them says
        table[-1] = state[key][-1]
    return {**state, key: table}


def _take_target(model: KDiff, before: KDiff, init: float | None) -> float:
    """Give the model's target the k of the weights; returns what their last layer is to be multiplied by."""
    theirs, ours = before.target, model.target
    if isinstance(theirs, LearnedK):
        theirs = FixedK(theirs.k)
    if isinstance(ours, LearnedK):
        start, factor = learned_from(theirs, init, ours.rate)
        ours.load_state_dict(start.state_dict())
        return factor
    if isinstance(ours, Learned) or isinstance(theirs, Learned):
        if type(ours) is not type(theirs):
            raise ValueError(f"the weights belong to the target {theirs}; expected the same, or learned, found {ours}")
        try:
            ours.load_state_dict(theirs.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the target of the weights, {theirs}, is not {ours}: {error}") from None
        return 1.0
    return rescaled(theirs, ours)
