"""The model card of an exported run: the README.md that the hub shows, with its YAML head but without a licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

NAMED = 200  # classes that are named
CARD = """---
{head}# license: add the licence of your weights here, e.g. license: apache-2.0
---

# {run}

{network} with {parameters:,} parameters, trained with [kdiff](https://arxiv.org/abs/2601.21419) for {step:,} steps.
Weights: {weights}{calibrated}.

- Target: `{target}`{k}. The model converts the network's output to a velocity, so that a flow-matching scheduler gets
  noise − data for any k.
- Data: {data}{stretched}
- Path: {path}
{classes}{conditions}
## Load and sample

```sh
pip install kdiff diffusers
```

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{place}", trust_remote_code=True)
images = pipeline({call}).images{save}
```

`trust_remote_code=True` is needed because diffusers has no class for this model: `pipeline.py` and
`transformer/kdiff_transformer.py` import the classes from kdiff and contain nothing else.{own}

The scheduler is FlowMatchEulerDiscreteScheduler. With the sigmas 1 − i/N its samples equal those of kdiff's
`solver="euler"`. FlowMatchHeunDiscreteScheduler and UniPCMultistepScheduler(use_flow_sigmas=True,
prediction_type="flow_prediction") work too; the first one uses its own sigmas, and the second one rounds the times.

`kdiff.json` describes the model, its data and its training, and lists the versions of the software.
"""


def model_card(facts: dict[str, Any], place: str, pictures: bool) -> str:
    """The text of the model card.

    Args:
        facts: from `kdiff.export.diffusers_folder.facts_of`.
        place: the argument of `from_pretrained` that loads the folder.
        pictures: whether the samples are images.
    """
    data, target, network = facts["data"], facts["target"], facts["network"]
    tags = ["kdiff", "flow-matching", *(["unconditional-image-generation"] if pictures and not data["num_classes"] else [])]
    head = {"library_name": "diffusers", "tags": [*tags, *(["class-conditional"] if data["num_classes"] else [])]}
    sizes = " × ".join(map(str, data["shape"]))
    names = [*data.get("classes", {}).values()]
    classes = f"{data['num_classes']} classes" if data["num_classes"] else "no classes"
    what = "latents" if facts["latents"] else "images" if pictures else "samples"
    normalised = f"normalised by {data['normalisation']['kind']!r}; the pipeline undoes this"
    guided = ", guidance_scale=2.0" if facts["config"]["null_rate"] else ""  # a model that never saw "no class" has no guidance
    options = [f"class_labels=[0, 1]{guided}"] if data["num_classes"] else ["num_samples=2"]
    given = data.get("conditions", {})
    if middle := {name: _middle(each["range"]) for name, each in given.items() if "range" in each}:
        options.insert(1, f"conditions={middle}")
    name = network["spec"].partition("(")[0]
    own = f"\nThe network is the authors' own class `{name}`, which must be importable, too." if "." in name else ""
    return CARD.format(
        head=yaml.safe_dump(head, sort_keys=False),
        run=facts["run"],
        network=f"`{network['spec']}`",
        parameters=network["parameters"],
        step=facts["step"],
        weights=facts["weights"],
        calibrated=", with a calibration of the data prediction (kdiff calibrate)" if facts["calibrated"] else "",
        target=target["spec"],
        k="".join(f", {name} = {value:.4g}" for name, value in target.items() if name != "spec"),
        data=f"{data['name']}, {data['counts']['train']:,} {what} of {sizes} with {classes}, {normalised}.",
        stretched=f" {facts['black_and_white']}." if "black_and_white" in facts else "",
        path=facts["path"],
        classes=f"- Classes, for `class_labels`: {first_classes(names, '`kdiff.json`')}\n" if names else "",
        conditions=_conditions(given),
        place=place,
        call=", ".join([*options, "num_inference_steps=50"]),
        save='\nimages[0].save("sample.png")' if pictures else "  # a tensor, in the data's own units",
        own=own,
    )


def _conditions(given: Mapping[str, Any]) -> str:
    """The line of the card that names conditions, their kinds and sizes; empty without conditions."""
    named = (f"`{name}` ({each['kind']}{_size(each)})" for name, each in given.items())
    return f"- Conditions by name, in the data's own units, for `conditions`: {', '.join(named)}\n" if given else ""


def _size(condition: Mapping[str, Any]) -> str:
    sizes = " × ".join(map(str, condition["shape"])) or f"0 to {condition['num_classes'] - 1}"
    within = condition.get("range")
    seen = f", in training {_numbers(within['low'])} to {_numbers(within['high'])}" if within and len(within["low"]) < 5 else ""
    return f", {sizes}{seen}"


def _numbers(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values)
    return shown if len(values) == 1 else f"[{shown}]"


def _middle(within: Mapping[str, Any]) -> list[float]:
    """The middle of the range of training, for an example."""
    return [float(f"{(low + high) / 2:.3g}") for low, high in zip(within["low"], within["high"])]


def first_classes(names: Sequence[str], file: str) -> str:
    """The number and the name of each class, in one line; of very many classes the first ones, and the file with all names."""
    named = ", ".join(f"{number}: {' '.join(name.split())}" for number, name in enumerate(names[:NAMED]))
    return named + (f", … {len(names)} in all (see {file})" if len(names) > NAMED else "")
