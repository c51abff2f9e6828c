"""What a run folder holds as text: the settings, and the lines of `kdiff info`."""

from __future__ import annotations

import math

from torch import nn

from kdiff.config.parts import Part
from kdiff.config.plain import as_dict
from kdiff.config.training import TrainConfig
from kdiff.export.model_card import first_classes
from kdiff.networks.conditioned import ConditionedNetwork
from kdiff.report.curve import shown_losses
from kdiff.run.checkpoint import list_checkpoints
from kdiff.run.given import describe_conditions, specs_of
from kdiff.run.run import Run

SAID = ("data", "network")  # settings that have their own lines in the text of `kdiff info`


def settings(config: TrainConfig) -> dict[str, str]:
    """Every setting as text: components in their short form, parts of a setting under names like "sampling.steps"."""
    found: dict[str, str] = {}
    for name, value in as_dict(config).items():
        part = getattr(config, name)
        if isinstance(part, Part):
            found[name] = str(part)
        elif isinstance(value, dict):
            found |= {f"{name}.{part}": str(one) for part, one in value.items()}
        else:
            found[name] = str(value)
    return found


def _kind(network: nn.Module) -> str:
    """The class of a network; of one with conditions by name, that of the network within."""
    inside = network.network if isinstance(network, ConditionedNetwork) else network
    return type(inside).__name__ + " with conditions" * (inside is not network)


def _conditions(run: Run) -> dict[str, str]:
    """The line of `kdiff info` for conditions."""
    specs = specs_of(run.data)
    return {"conditions": describe_conditions(run.model, specs).replace("\n", f"\n{'':12}")} if specs else {}


def describe_run(run: Run) -> str:
    """What a run folder holds, as the text of `kdiff info`."""
    data, rows, network = run.data, run.metrics(), run.model.network
    checkpoints = ", ".join(str(int(path.name.removeprefix("step_"))) for path in list_checkpoints(run.folder / "checkpoints"))
    last, split = rows[-1] if rows else {}, ""
    names = data.get("class_names")
    if "loss_across" in shown_losses(rows):
        split = f" ({last['loss_along']:.4g} along the principal directions of the data, {last['loss_across']:.4g} across them)"
    lines = {
        "run": run.folder,
        "data": f"{data['name']}: {data['counts']['train']} training samples of shape {tuple(data['shape'])}, "
        f"{data['num_classes'] or 'no'} classes, normalisation {data['normalisation']['kind']!r}",
        **({"classes": first_classes(names, "data.json")} if names else {}),
        **_conditions(run),
        "variance": f"total {data['total_variance']:.4g} in {math.prod(data['shape'])} dimensions, after normalisation",
        "network": f"{_kind(network)}, {sum(p.numel() for p in network.parameters()):,} parameters",
        "target": f"{run.model.target} in the weights {run.weights}",
        **({"calibrated": "yes (kdiff calibrate); --calibrated false leaves it out"} if run.calibrated else {}),
        "path": f"{run.model.path}, times in training: {run.model.timesteps}",
        "progress": f"step {last.get('step', 0)} of {run.config.steps}",
        "loss": f"{last.get('loss', float('nan')):.4g}{split}",
        "checkpoints": checkpoints,
        "settings": ", ".join(f"{name} {value}" for name, value in settings(run.config).items() if name not in SAID),
    }
    return "\n".join(f"{name:12}{value}" for name, value in lines.items())
