"""A run as a folder of diffusers: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

    model_index.json    the parts
    pipeline.py         where the pipeline's class is: in kdiff
    transformer/        network and target: config.json, safetensors, and where their class is
    scheduler/          FlowMatchEulerDiscreteScheduler
    vae/                of a run on latents, their autoencoder
    kdiff.json          what was trained on what, and the sigmas of 50 steps
    README.md           the model card

Nothing of where the run or its data lay on this machine is written down.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from kdiff.components import parse
from kdiff.evaluation.images import value_range
from kdiff.files import new_folder, write_json, write_text
from kdiff.interop.card import model_card
from kdiff.report.samples import is_image
from kdiff.training.build import describe_environment
from kdiff.training.config import as_dict
from kdiff.training.encode import decoder
from kdiff.training.run import Run

FACTS = "kdiff.json"
STEPS = 50  # of the sigmas that are written down
# Of data.json, what is said of the data: none of it names a place.
SAID = ("num_samples", "counts", "shape", "num_classes", "normalisation", "fingerprint", "min", "max", "mean", "std", "flip")


def export(run: Run, folder: Path, place: str = "path/to/this/folder") -> Path:
    """Write a run, with the weights that it was read with, as a pipeline of diffusers; whole or not at all.

    Args:
        run: from `load_run`; a run on latents needs their autoencoder (`run.autoencoder`).
        folder: to write; an earlier export there is replaced.
        place: what the model card says to load: the name on the hub, if it goes there.

    Raises:
        ValueError: diffusers is not installed; a folder that holds something else; a path that cannot be taken to the linear
            one; latents whose autoencoder is another one.
        FileNotFoundError: their autoencoder is not to be found.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise ValueError("an export to diffusers needs diffusers, which is not installed; pip install 'kdiff[diffusers]'")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / FACTS).is_file())):
        raise ValueError(f"{folder} is there and is no export of kdiff; choose another folder by --out")
    pipeline, facts = as_pipeline(run), facts_of(run)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as aside:
        pipeline.save_pretrained(aside)
        write_json(aside / FACTS, {**facts, "sigmas": pipeline.sigmas(STEPS)})
        write_text(aside / "README.md", model_card(facts, place, pictures=pipeline.config.data["image"] is not None))
    return folder


def as_pipeline(run: Run) -> Any:
    """The pipeline of a run, a `kdiff.interop.pipeline.KDiffPipeline`, on the CPU.

    Raises:
        ValueError, FileNotFoundError: as `export`.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    from kdiff.interop.pipeline import KDiffPipeline
    from kdiff.interop.transformer import KDiffTransformer

    config, vae = run.config, None
    transformer = KDiffTransformer(
        network=config.network,
        target=config.target,
        shape=list(run.shape),
        num_classes=run.data["num_classes"],
        path=config.path,
        noise_scale=config.noise_scale,
    )
    transformer.model.load_state_dict({name: value.cpu() for name, value in run.model.state_dict().items()})
    if run.latents:
        vae = decoder(*run.latents_autoencoder()).module
    data = {"normalisation": run.data["normalisation"], "image": _black_and_white(run)}
    return KDiffPipeline(transformer.eval(), FlowMatchEulerDiscreteScheduler(), vae, data)


def facts_of(run: Run) -> dict[str, Any]:
    """What the card and kdiff.json say of a run."""
    config = as_dict(run.config)
    name = Path(parse(config.pop("data")).name).stem
    return {
        "run": run.folder.resolve().name,
        "step": run.step,
        "weights": run.weights,
        "target": {"spec": str(parse(run.config.target)), **run.model.target.state()},
        "network": {
            "spec": str(parse(run.config.network)),
            "parameters": sum(p.numel() for p in run.model.network.parameters()),
        },
        "path": repr(run.model.path),
        "data": {"name": name, **{key: run.data[key] for key in SAID if key in run.data}},
        "latents": run.latents is not None,
        "config": config,
        "environment": {key: value for key, value in describe_environment().items() if key != "command"},
    }


def push(folder: Path, repository: str) -> str:
    """Upload an export to the hub, into a repository that is made, private, if it is not there; returns its address.

    Raises:
        ValueError: no such name; the hub cannot be reached, or does not let this user in.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi()
    try:
        address = str(hub.create_repo(repository, private=True, exist_ok=True))
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="kdiff export")
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{folder} is written, but could not be uploaded to {repository!r}: {' '.join(str(error).split())}. Expected a "
            "name like owner/name, and to be logged in (hf auth login)"
        ) from None
    return address


def _black_and_white(run: Run) -> dict[str, float] | None:
    """The values of black and white in what the model makes, or None for what is no image."""
    if run.latents:
        return {"low": -1.0, "high": 1.0}
    if not is_image(run.shape):
        return None
    low, high = value_range(run.data)
    return {"low": low, "high": high}
