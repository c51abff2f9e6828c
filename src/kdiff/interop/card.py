"""The model card of an exported run: the README.md that the hub shows, with its YAML head; without a licence."""

from __future__ import annotations

from typing import Any

import yaml

CARD = """---
{head}# license: the licence of the weights is yours to name, e.g. license: apache-2.0
---

# {run}

{network} with {parameters:,} parameters, trained with [kdiff](https://arxiv.org/abs/2601.21419) for {step:,} steps.
Weights: {weights}.

- Target: `{target}`{k}. What the network says is turned into a velocity inside the model, so that a scheduler of flow
  matching sees noise − data, whatever k is.
- Data: {data}
- Path: {path}

## Load and sample

```sh
pip install kdiff diffusers
```

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{place}", trust_remote_code=True)
images = pipeline({call}).images{save}
```

`trust_remote_code` is asked for because diffusers has no class of its own for this model: `pipeline.py` and
`transformer/kdiff_transformer.py` import it from kdiff, and hold nothing else.{own}

The scheduler is FlowMatchEulerDiscreteScheduler with the sigmas 1 − i/N, on which the samples are those of kdiff's
own `solver="euler"`. FlowMatchHeunDiscreteScheduler and UniPCMultistepScheduler(use_flow_sigmas=True,
prediction_type="flow_prediction") work too; the first has a grid of its own, the second rounds the times.

What was trained, on what, and with which versions is in `kdiff.json`.
"""


def model_card(facts: dict[str, Any], place: str, pictures: bool) -> str:
    """The card's text.

    Args:
        facts: of `kdiff.interop.export.facts_of`.
        place: from where to load the folder.
        pictures: whether the samples are images.
    """
    data, target, network = facts["data"], facts["target"], facts["network"]
    tags = ["kdiff", "flow-matching", *(["unconditional-image-generation"] if pictures and not data["num_classes"] else [])]
    head = {"library_name": "diffusers", "tags": [*tags, *(["class-conditional"] if data["num_classes"] else [])]}
    sizes = " × ".join(map(str, data["shape"]))
    classes = f"{data['num_classes']} classes" if data["num_classes"] else "no classes"
    what = "latents" if facts["latents"] else "images" if pictures else "samples"
    normalised = f"normalised by {data['normalisation']['kind']!r}, which the pipeline undoes"
    options = ["class_labels=[0, 1], guidance_scale=2.0"] if data["num_classes"] else ["num_samples=2"]
    own = "." in network["spec"].partition("(")[0]
    return CARD.format(
        head=yaml.safe_dump(head, sort_keys=False),
        run=facts["run"],
        network=f"`{network['spec']}`",
        parameters=network["parameters"],
        step=facts["step"],
        weights=facts["weights"],
        target=target["spec"],
        k=f", k = {target['k']:.4g}" if "k" in target else "",
        data=f"{data['name']}, {data['counts']['train']:,} {what} of {sizes} with {classes}, {normalised}.",
        path=facts["path"],
        place=place,
        call=", ".join([*options, "num_inference_steps=50"]),
        save='\nimages[0].save("sample.png")' if pictures else "  # a tensor, in the data's own units",
        own=f"\nThe network is a class of its authors', `{network['spec'].partition('(')[0]}`, which must be importable too."
        if own
        else "",
    )
