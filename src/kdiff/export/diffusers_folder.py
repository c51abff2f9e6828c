"""Export a run as a folder for diffusers: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

    model_index.json    the parts of the pipeline
    pipeline.py         imports the pipeline's class from kdiff
    transformer/        network and target: config.json, safetensors, and a file that imports their class from kdiff
    scheduler/          FlowMatchEulerDiscreteScheduler
    vae/                the autoencoder, for a run on latents
    kdiff.json          model, data (with the names of its classes by number) and training, and the sigmas of 50 steps
    README.md           the model card

The folder does not say where the run or its data are on this machine.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from kdiff.config.parts import parse
from kdiff.config.plain import as_dict
from kdiff.data.samples import is_image
from kdiff.evaluation.images import guessed_range, value_range
from kdiff.export.model_card import model_card
from kdiff.files.atomic import new_folder, write_json, write_text
from kdiff.latent.autoencoder import decoder
from kdiff.run.calibrations import plain_calibration
from kdiff.run.environment import describe_environment
from kdiff.run.run import Run

FACTS = "kdiff.json"
STEPS = 50  # steps of the sigmas in kdiff.json
# The entries of data.json that are exported; none of them contains a path on this machine.
SAID = [*("num_samples", "counts", "shape", "num_classes", "normalisation", "fingerprint"), *("min", "max", "mean", "std")]
SAID += ["flip", "conditions"]


def export(run: Run, folder: Path, place: str = "path/to/this/folder") -> Path:
    """Write a run as a diffusers pipeline, whole or not at all, with the weights that were chosen when the run was loaded.

    Args:
        run: from `load_run`; a run on latents needs their autoencoder (`run.autoencoder`).
        folder: where to write; an earlier export there is replaced.
        place: the argument of `from_pretrained` in the model card: the name on the hub, if the folder is uploaded.

    Raises:
        ValueError: diffusers is not installed; the folder holds other files; the run's path cannot be converted to the linear
            path; the run's latents belong to another autoencoder.
        FileNotFoundError: the autoencoder of a run on latents does not exist.
        FolderReplaced: the folder lies in the run folder, which was removed or replaced since the run was read.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise ValueError("the export needs diffusers, which is not installed; pip install 'kdiff[diffusers]'")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / FACTS).is_file())):
        raise ValueError(f"{folder} already exists and is not an export of kdiff; choose another folder with --out")
    pipeline, facts = as_pipeline(run), facts_of(run)
    pipeline.transformer.check_loadable()
    if "black_and_white" in facts:
        warnings.warn(
            f"{facts['black_and_white']}: output_type pil and np are stretched to them; train on data with a value_range, or "
            'take output_type="pt", which is in the data\'s own units',
            stacklevel=2,
        )
    run.place.check(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as aside:
        pipeline.save_pretrained(aside)
        write_json(aside / FACTS, {**facts, "sigmas": pipeline.sigmas(STEPS)})
        write_text(aside / "README.md", model_card(facts, place, pictures=pipeline.config.data["image"] is not None))
    return folder


def as_pipeline(run: Run) -> Any:
    """The pipeline of a run, a `kdiff.export.pipeline.KDiffPipeline` on the CPU; raises the same errors as `export`."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from kdiff.export.diffusers_model import KDiffTransformer
    from kdiff.export.pipeline import KDiffPipeline

    config, vae = run.config, None
    transformer = KDiffTransformer(
        network=config.network.plain(),
        target=config.target.plain(),
        shape=list(run.shape),
        num_classes=run.data["num_classes"],
        path=config.path.plain(),
        noise_scale=config.noise_scale,
        null_rate=config.null_rate,
        calibration=None if run.model.calibration is None else plain_calibration(run.model.calibration),
        recipe=config.recipe,
        conditions=run.data.get("conditions"),
        null_rates=config.null_rates or None,
    )
    transformer.model.load_state_dict({name: value.cpu() for name, value in run.model.state_dict().items()})
    if run.latents:
        vae = decoder(*run.latents_autoencoder()).module
    data = {"normalisation": run.data["normalisation"], "image": _black_and_white(run)}
    return KDiffPipeline(transformer.eval(), FlowMatchEulerDiscreteScheduler(), vae, data)


def facts_of(run: Run) -> dict[str, Any]:
    """The facts about a run for the model card and kdiff.json."""
    config = as_dict(run.config)
    name = Path(parse(config.pop("data")).name).stem
    names = run.data.get("class_names")
    data = {"name": name, **{key: run.data[key] for key in SAID if key in run.data}}
    guess, usual = guessed_range(run.data) if is_image(run.shape) and not run.latents else ("", True)
    return {
        "run": run.folder.resolve().name,
        "step": run.step,
        "weights": run.weights,
        "calibrated": run.calibrated,
        "target": {"spec": str(run.config.target), **run.model.target.state()},
        "network": {"spec": str(run.config.network), "parameters": sum(p.numel() for p in run.model.network.parameters())},
        "path": repr(run.model.path),
        "data": data | ({"classes": {str(number): each for number, each in enumerate(names)}} if names else {}),
        **({} if usual else {"black_and_white": guess}),
        "latents": run.latents is not None,
        "config": config,
        "environment": {key: value for key, value in describe_environment().items() if key != "command"},
    }


def push(folder: Path, repository: str) -> str:
    """Upload an export to a repository on the hub, which is created as private if it does not exist; returns its address.

    Raises:
        ValueError: the name is not valid, the hub cannot be reached, or it refuses this user.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi()
    try:
        address = str(hub.create_repo(repository, private=True, exist_ok=True))
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="kdiff export")
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{folder} is written, but could not be uploaded to {repository!r}: {' '.join(str(error).split())}. Use a name "
            "like owner/name, and log in (hf auth login)"
        ) from None
    return address


def _black_and_white(run: Run) -> dict[str, float] | None:
    """The values of black and white in the model's samples, or None if they are not images."""
    if run.latents:
        return {"low": -1.0, "high": 1.0}
    if not is_image(run.shape):
        return None
    low, high = value_range(run.data)
    return {"low": low, "high": high}
