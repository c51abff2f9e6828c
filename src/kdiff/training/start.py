"""Start training from published weights or the weights of a run, converted to the target to be trained.

A network that predicts u = a x − b n (a, b constant) predicts u′ = a′ x − b′ n with a′/b′ = a/b exactly, if its last layer is
multiplied by (a′ + b′)/(a + b). So velocity prediction becomes a learned k of ½ exactly. Data and noise prediction become a
learned k close to theirs, which is not exact (`kdiff.published.finetune`); the change of the velocity is measured and reported.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.config.parts import Part, Spec, parse, resolve
from kdiff.config.training import ModelConfig, TrainConfig
from kdiff.data import Dataset, Samples
from kdiff.files.tensors import load_weights
from kdiff.files.weights import read_weights, unwrapped
from kdiff.model import KDiff
from kdiff.networks import load_official
from kdiff.path import LinearPath
from kdiff.published import as_model
from kdiff.published.finetune import change_between, scale_output
from kdiff.run.agreement import DIFFERENCES, differences, facts_of, nameless
from kdiff.run.run import Run, load_run
from kdiff.targets.constant import FixedK, LearnedK, is_constant, learned_from, rescaled

# The architectures with time from 0 to 1 on the linear path; DiT and U-ViT have their own times and paths.
PUBLISHED = ("jit", "sit", "lightningdit")
TABLES = ("y_embedder.embedding_table.weight", "label.weight")  # tables of labels of the transformers, and of the MLP
ALLOWED = (*DIFFERENCES, "network")  # differences from a run that the option `allow` of start_from may name
SAME = 1e-4  # a relative change of an output that the order of its sums can make
SHOWN = 2  # samples on which the change is measured; a large network takes seconds for each
NEW_ROWS = ", and the rows of the classes are new"
REMEDY = "Training cannot start from them; start from weights for data like these, or leave start_from out"

Given = tuple[dict[str, Any], dict[str, Any]]  # the conditions of the model before and after


def start_from(
    model: KDiff, config: TrainConfig, x: Samples, y: Tensor | None, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Load the weights that `config.start_from` names into a model; returns the content of start.json.

    Args:
        model: built from the configuration. Its network gets the weights; its target gets their k.
        config: the configuration.
        x: samples; the change of the velocity is measured on the first two.
        y: their labels, or None.
        dataset: the data to train on. Their classes and normalisation are compared with those that a run recorded.

    Raises:
        FileNotFoundError: the weights do not exist.
        ValueError: the weights belong to another network, path or noise scale, to data of other classes or another
            normalisation, or to a target that cannot be converted to the model's; or the source has no such option.
    """
    source, labels, allowed = find_source(config.start_from or "")
    if source.name in PUBLISHED:
        before, facts, given = _published(source, model, config, labels == "new", x, y)
    else:
        before, facts, given = _of_run(source, model, config, labels == "new", allowed, x, y, dataset)
    if labels == "new":
        if _table(model.network.state_dict()) is None:
            raise ValueError("labels is new in start_from, but the network has no table of labels; leave labels out")
        facts["measured"] = facts.get("measured", "without a class")
    init = next(iter(config.target.values), config.target.options.get("init"))  # learned(0.9) or learned(init=0.9)
    factor = _take_target(model, before, init)
    if factor != 1:
        scale_output(model.network, factor)
    changes = change_between(before.eval(), model.eval(), x[:SHOWN], given)
    state = model.target.state()
    return {**facts, "labels": labels, "factor": factor, **state, "target_state": state, "velocity_change": changes}


def _published_options(weights: str, entry: str | None = None, labels: str = "same") -> dict[str, Any]:
    return {"weights": weights, "entry": entry, "labels": labels}


def _run_options(
    checkpoint: int | None = None, ema: float | str | None = None, labels: str = "same", allow: str | list[str] | None = None
) -> dict[str, Any]:
    return {"checkpoint": checkpoint, "ema": ema, "labels": labels, "allow": allow}


def find_source(spec: Spec) -> tuple[Part, str, list[str]]:
    """The source of the weights, and apart from it its options `labels` and `allow`.

    Raises FileNotFoundError or ValueError if the weights or options do not exist.
    """
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
    allow = options.pop("allow", [])
    allowed = [word.strip() for each in ([allow] if isinstance(allow, str) else allow) for word in str(each).split(",")]
    if unknown := [word for word in allowed if word not in ALLOWED]:
        raise ValueError(f"allow is {', '.join(unknown)} in start_from; expected some of {', '.join(ALLOWED)}")
    if published and not Path(str(options["weights"])).exists():
        raise FileNotFoundError(f"start_from is {part}; found no weights at {options['weights']}")
    return Part(name, options), labels, allowed


def as_text(start: dict[str, Any]) -> str:
    """The content of start.json in one line."""
    time, most = max(start["velocity_change"].items(), key=lambda pair: pair[1])  # JSON turns times into text
    velocity = f"the velocity {start['measured']}" if "measured" in start else "the velocity"
    change = f"{velocity} changes by at most {most:.2g} of its size (at t = {float(time):g})"
    moved = (change if most else f"{velocity} is the same") + NEW_ROWS * (start["labels"] == "new")
    state = start.get("target_state", {name: start[name] for name in ("k",) if name in start})  # older files have only k
    at = "".join(f" at {name} = {value:.4g}" for name, value in list(state.items())[:1])
    allowed, missing = start.get("allowed"), start.get("not_compared")
    differs = f"; other than in its training, as allowed: {', '.join(allowed)}" if allowed else ""
    return f"starting from {start['source']}{at}; {moved}{differs}{f'; not compared: {missing}' if missing else ''}"


def _published(
    part: Part, model: KDiff, config: ModelConfig, new_labels: bool, x: Samples, y: Tensor | None
) -> tuple[KDiff, dict[str, Any], Given]:
    """The published model, its entries in start.json, and the conditions for a comparison."""
    name, path, entry = part.name, part.options["weights"], part.options.get("entry")
    if not isinstance(model.path, LinearPath):
        raise ValueError(f"path is {config.path!r}; expected linear, because {name} was trained on the linear path")
    found = read_weights(path, entry)
    if any(key.startswith("target.") for key in found) and any(key.startswith("network.") for key in found):
        raise ValueError(
            f"{path} is a checkpoint of a kdiff run, whose network need not predict what {name} predicts; name the run "
            "folder, as in --start_from runs/NAME"
        )
    state = unwrapped(found, model.network.state_dict())
    if y is None and _table(model.network.state_dict()) is None and (table := _table(state)) is not None:
        raise ValueError(f"the data have 0 classes; the weights in {path} are for {len(table) - 1}. {REMEDY}")
    load_official(name, model.network, _labelled(state, model.network, new_labels))
    before = as_model(name, copy.deepcopy(model.network), noise_scale=config.noise_scale)
    missing = "classes and normalisation of the data, which published weights do not record"
    given = _given(before, model, x, y, new_labels)
    return before, {"source": str(part), "architecture": name, "not_compared": missing}, given


def _of_run(
    part: Part,
    model: KDiff,
    config: ModelConfig,
    new_labels: bool,
    allowed: list[str],
    x: Samples,
    y: Tensor | None,
    dataset: Dataset | None,
) -> tuple[KDiff, dict[str, Any], Given]:
    """The model of another run, its entries in start.json, and the conditions for a comparison.

    If it takes samples of another shape, its network is replaced by a copy of this one.
    """
    folder = Path(part.name)
    run = load_run(folder, **part.options, calibrated=False)
    for name in ("path", "noise_scale"):
        theirs, ours = getattr(run.config, name), getattr(config, name)
        if theirs != ours:
            raise ValueError(f"{name} is {ours}; expected {theirs}, with which {folder} was trained")
    state = _labelled(run.model.cpu().network.state_dict(), model.network, new_labels)
    try:
        load_weights(model.network, state, folder)
    except ValueError as error:
        if not (cause := _misfit(run, model, x, y, dataset)):
            raise
        raise ValueError(f"{cause}, and {error}. {REMEDY}") from None
    given = _given(run.model, model, x, y, new_labels, run.data["num_classes"])
    found = _differences(run, model, config, new_labels, x, given, dataset)
    _refuse(found, part, run, new_labels, allowed)
    facts: dict[str, Any] = {"source": str(part), "step": run.step, "weights": run.weights}
    if tuple(x.shape[1:]) != run.shape:
        run.model.network, given = copy.deepcopy(model.network), (given[1], given[1])
        facts["measured"] = "(with this network in both models, because that of the run takes samples of another shape)"
    if found:
        facts["allowed"] = list(found)
    missing = "classes and normalisation of the data, because no data set was read or given"
    if dataset is not None:
        names = "" if new_labels else nameless(run.data, facts_of(dataset), folder)
        missing = f"the names of the classes, which are not recorded for {names}" if names else ""
    return run.model, {**facts, **({"not_compared": missing} if missing else {})}, given


def _misfit(run: Run, model: KDiff, x: Samples, y: Tensor | None, dataset: Dataset | None) -> str:
    """The difference in the classes or the shape of the data that can make weights not fit; empty if there is none."""
    theirs, shape = run.data["num_classes"], tuple(x.shape[1:])
    ours = dataset.num_classes if dataset is not None else 0 if y is None else theirs or "other"
    if shape != run.shape:
        return f"the samples have the shape {shape}; those of {run.folder} have {run.shape}"
    tables = [_table(each.network.state_dict()) is not None for each in (run.model, model)]  # two tables fit by labels=new
    return f"the data have {ours} classes; those of {run.folder} have {theirs}" if ours != theirs and not all(tables) else ""


def _given(before: KDiff, after: KDiff, x: Samples, y: Tensor | None, new: bool, classes: int | None = None) -> Given:
    """The conditions under which two models are compared: labels that both know, or "no class" if there are none.

    new: whether the rows of the classes are new. classes: the number of the first model's classes; None for that of the second.
    """
    if y is not None and not new:
        known = {"y": y[:SHOWN] % classes if classes else y[:SHOWN]}
        return {} if classes == 0 else known, known
    found = []
    for model in (before, after):
        table = _table(model.network.state_dict()) if new and not model.null else None
        null = {name: model.null[name] for name in model.null if name == "y"} if table is None else {"y": len(table) - 1}
        found.append({name: torch.full((len(x[:SHOWN]),), value) for name, value in null.items()})
    return found[0], found[1]


def _differences(
    run: Run, model: KDiff, config: ModelConfig, new_labels: bool, x: Samples, given: Given, dataset: Dataset | None
) -> dict[str, str]:
    """What gives the weights another meaning here than in their run, by name and in words."""
    found = {} if dataset is None else differences(run.data, facts_of(dataset), run.folder)
    if new_labels:
        found.pop("classes", None)
    if run.config.network != config.network and tuple(x.shape[1:]) == run.shape:
        change = max(change_between(run.model.eval(), model.eval(), x[:SHOWN], given, (0.2, 0.8), of_output=True).values())
        if change > SAME:
            found["network"] = (
                f"network is {config.network}; expected {run.config.network}, with which {run.folder} was trained: the weights "
                f"fit both, but the output changes by {change:.2g} of its size"
            )
    return found


def _refuse(found: dict[str, str], part: Part, run: Run, new_labels: bool, allowed: list[str]) -> None:
    """Raise ValueError, with what to type, if there are differences that are not allowed."""
    refused = {name: text for name, text in found.items() if name not in allowed}
    if not refused:
        return
    names = ", ".join(name for name in ALLOWED if name in found or name in allowed)
    labels = {"labels": "new"} if new_labels else {}
    spec = Part(part.name, {**part.options, **labels, "allow": names})
    remedies = ["To draw new rows for other classes, add labels=new."] if "classes" in refused else []
    if "normalisation" in refused and run.latents is not None:
        own = run.config.data.options.get("normalise", "channels")
        again = run.latents["folder"] if own == "channels" else own
        remedies.append(f"To normalise these latents as those were, type --data.normalise {again}.")
    if "normalisation" in refused and run.normalisation.kind == "range":
        low, high = (float(run.normalisation.shift + sign * run.normalisation.scale) for sign in (-1, 1))
        remedies.append(f"The range of values of those data was {low:g} to {high:g} (--data.value_range).")
    remedies.append(f'To start from these weights all the same, type --start_from "{spec}"')
    raise ValueError(f"{'; '.join(refused.values())}. {' '.join(remedies)}")


def _table(state: dict[str, Tensor]) -> Tensor | None:
    """The table of labels and "no class" among weights; None if they have none."""
    return next((state[name] for name in TABLES if name in state), None)


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
        return state
    table = own[key].clone()
    if table.shape[1:] == state[key].shape[1:]:  # else loading refuses them, as weights of another network
        table[-1] = state[key][-1]
    return {**state, key: table}


def _take_target(model: KDiff, before: KDiff, init: float | None) -> float:
    """Give the model's target the k of the weights; returns the factor for their last layer."""
    theirs, ours = before.target, model.target
    if isinstance(theirs, LearnedK) and isinstance(ours, LearnedK) and init is None and theirs.rate == ours.rate:
        ours.load_state_dict(theirs.state_dict())  # the same w: k computed and taken back would be rounded
        return 1.0
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
    except RuntimeError:
        raise ValueError(f"target is {ours}, but the weights belong to {theirs}; expected the same options") from None
    return 1.0
