"""A run folder: everything that describes a training run and everything that it made, in files that any program can read.

    config.yaml         the resolved configuration
    environment.json    versions, machine, threads
    data.json           the data: shape, classes, normalisation, conditions, fingerprint
    conditions.safetensors    for a run with conditions: examples of their values (`kdiff.run.given`)
    metrics.jsonl       one line per logging interval
    start.json          for a run with start_from: the weights it started from, and how far their velocity was changed
    target.json         the target's description of itself before the first step: its numbers, their axis, curves
    finished.json       written at the end: the last line of metrics, and the seconds since training was last resumed
    checkpoints/        see `kdiff.run.checkpoint`
    calibration/        see `kdiff.run.calibrations`
    samples/            samples drawn from the run
    tensorboard/        the metrics as TensorBoard events, if the configuration asks for them

Sampling and evaluation read target, path, shape, normalisation and classes from this folder, never from options.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.config.recipes import resolved
from kdiff.config.sampling import find_sampler, sampler_options
from kdiff.config.training import TrainConfig
from kdiff.data import Dataset, Normalisation
from kdiff.data.latents import read_manifest
from kdiff.files.atomic import read_json
from kdiff.files.tensors import load_tensors, load_weights
from kdiff.latent.autoencoder import decoder
from kdiff.model import KDiff
from kdiff.run.build import build, build_model, load_dataset
from kdiff.run.calibrations import adopted_calibration
from kdiff.run.checkpoint import DamagedCheckpoint, check_checkpoint, ema_file, list_checkpoints
from kdiff.run.contents import BACK, TARGET, check_recorded_config, read_data, read_start
from kdiff.run.folder import read_run_config, step_of
from kdiff.run.generate import generate
from kdiff.run.given import Given, check_guided, examples, given_by, specs_of
from kdiff.run.lock import Place
from kdiff.run.metrics import read_metrics
from kdiff.run.trust import trusting
from kdiff.targets import Description, Target


@dataclass
class Run:
    """A run that was read back: its model with the weights of a checkpoint, and the description of the run.

    For a run on latents, `autoencoder` is the place of their autoencoder; None is its place when the latents were encoded.
    `weights_digest` is the checksum of the file of the weights.
    A caller who writes into the run folder calls `place.check` first, as the folder may have been removed or replaced.
    """

    folder: Path
    config: TrainConfig
    data: dict[str, Any]
    model: KDiff
    step: int
    weights: str
    autoencoder: str | None = None
    weights_digest: str = ""
    place: Place = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.place = Place(self.folder)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return tuple(self.data["shape"])

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation of the data, which `sample` undoes."""
        return Normalisation.from_description(self.data["normalisation"])

    @property
    def calibrated(self) -> bool:
        """Whether the model has a calibration (`kdiff.targets.calibration`)."""
        return self.model.calibration is not None

    @property
    def class_counts(self) -> list[int] | None:
        """The number of training samples of each class; None without labels."""
        return self.data["class_counts"]

    @functools.cached_property
    def given(self) -> Given:
        """Under which conditions samples are drawn if nothing else is asked for: examples of the data, or balanced labels."""
        return Given(self.class_counts, examples(self.folder, self.data))

    def given_by(self, conditions: Mapping[str, Any] | Given | None, ensemble: int = 1) -> Given:
        """Under which conditions samples are drawn: those of a caller (see `sample`), or else `given`."""
        return given_by(self.data, self.given, conditions, ensemble, self.model.null)

    @property
    def latents(self) -> dict[str, Any] | None:
        """For a run on latents: their autoencoder, and the shape and normalisation of the images. Otherwise None."""
        return self.data.get("latents")

    def decode(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [−1, 1], decoded from latents x in the data's own units, as `sample` returns them.

        Raises:
            ValueError, FileNotFoundError: the run is not on latents, or their autoencoder is missing or is another one.
        """
        if self.latents is None:
            raise ValueError(f"{self.folder} was not trained on latents, so there is nothing to decode")
        return decoder(*self.latents_autoencoder()).decode(x)

    def latents_autoencoder(self) -> tuple[str, str]:
        """For a run on latents: the last known place of their autoencoder, and its identity."""
        assert self.latents is not None
        wanted = self.latents["autoencoder"]
        try:
            # kdiff encode may have recorded another place since.
            now = read_manifest(Path(self.latents["folder"]))["autoencoder"]
        except (OSError, ValueError):  # the latents have been moved or removed; sampling does not need them
            now = wanted
        return self.autoencoder or (now if now["identity"] == wanted["identity"] else wanted)["source"], wanted["identity"]

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.folder / "metrics.jsonl")

    def sample(
        self,
        num: int | None = None,
        seed: int = 0,
        sampler: str | None = None,
        conditions: Mapping[str, Any] | Given | None = None,
        ensemble: int = 1,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Samples in the data's own units, and their labels, drawn as `kdiff sample RUN` draws them.

        Args:
            num: the number of samples. If left out, `ensemble` samples for each row of `conditions`, or 64 without them.
            seed: the seed of the noise.
            sampler: "default" or "paper". If left out, the sampler is as the run's configuration says under `sampling`.
            conditions: values by name in the data's own units, as in {"params": [0.3, 1.2], "y": 3}: one row for all samples,
                or several rows, which the samples get in turn. A name that is left out is "none". Without conditions, the
                samples get the examples of the run in turn; labels alone are balanced.
            ensemble: how many samples in a row get the same row of the conditions.
            options: further options of `KDiff.sample`; they override the sampler and the configuration.
        """
        named = {} if sampler is None else find_sampler(sampler)
        options = {**sampler_options(self.config.sampling), **named, **options}
        self.check_guidance(options["guidance"], options.get("guidance_model"), options.get("guide_on"))
        given = self.given_by(conditions, ensemble)
        num = given.usual if num is None else num
        x, y = generate(self.model, num, self.shape, given, seed, **options)
        return self.normalisation.undo(x), y

    def check_guidance(self, scale: float, weaker: KDiff | None = None, guide_on: Sequence[str] | None = None) -> None:
        """Raise ValueError for guidance without a weaker model if the run has not learned both a class and "no class"."""
        if scale == 1 or weaker is not None:
            return
        if self.data.get("conditions"):
            check_guided(self.model, guide_on, self.folder)
            return
        rate = self.config.null_rate
        never = 'never saw "no class"' if not rate else 'never saw a class, only "no class"' if rate == 1 else ""
        if never and self.class_counts:
            never = f"with null_rate {rate:g} and {never}"
        elif not self.class_counts:
            never = "without labels"
        if never:
            raise ValueError(
                f"{self.folder} was trained {never}, so only a weaker model (--guidance-run) can guide it; leave --guidance out"
            )

    def dataset(self) -> Dataset:
        """The data that the run was trained on, loaded again. Raises ValueError if the data have changed since."""
        dataset = load_dataset(self.config)
        if dataset.fingerprint != self.data["fingerprint"]:
            raise ValueError(
                f"the data {self.config.data!r} are not what {self.folder} was trained on: their fingerprint is "
                f"{dataset.fingerprint}; expected {self.data['fingerprint']}"
            )
        return dataset


def target_at_start(folder: Path) -> Description:
    """The target's description of itself before the first step. For runs older than target.json it is found by its name."""
    path = folder / "target.json"
    if path.exists():
        plain = read_json(path, TARGET, BACK)
        try:
            return Description.from_plain(plain)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}; {BACK}") from None
    config = read_run_config(folder, TrainConfig)
    drawn: Target = build("target", resolved(config.target, config.recipe)[0])
    start = read_start(folder)
    return replace(drawn.describe(), scalars={name: start.get(name, value) for name, value in drawn.state().items()})


def load_run(
    folder: str | Path,
    checkpoint: int | None = None,
    ema: float | str | None = None,
    trust: bool = False,
    calibrated: bool = True,
) -> Run:
    """Read a run folder.

    Args:
        folder: the folder, as written by `kdiff train`.
        checkpoint: the step of the checkpoint to read. If left out, the newest. A damaged checkpoint is never replaced by an
            older one, so that no figure is taken for that of other weights.
        ema: the decay of the averaged weights to read, k included, or "none" for the raw weights. If left out, the first decay.
        trust: import what the folder names outside kdiff, which runs that code (`kdiff.run.trust`). A folder that this user
            wrote on this machine does not need it.
        calibrated: give the model the calibration that the run has adopted for these weights, if there is one. If the run has
            one for other weights only, a warning says that it is not used.

    Raises:
        ValueError: this is no run folder; it has no such checkpoint or decay; files are damaged; weights do not fit; or the
            folder names code outside kdiff and is not trusted.
    """
    folder = Path(folder)
    place = Place(folder)  # before anything is read
    with trusting(trust):
        config = read_run_config(folder, TrainConfig)
    checkpoints = {step_of(path): path for path in list_checkpoints(folder / "checkpoints")}
    if not checkpoints:
        raise ValueError(
            f"{folder} has no checkpoint yet; wait until kdiff train writes one (checkpoint_every), or --resume it"
        )
    step = max(checkpoints) if checkpoint is None else checkpoint
    if step not in checkpoints:
        raise ValueError(f"{folder} has no checkpoint of step {step}; it has: {', '.join(map(str, checkpoints))}")
    try:
        state = check_checkpoint(checkpoints[step])
    except DamagedCheckpoint as error:
        raise ValueError(f"{error}; {_remedy(checkpoints, step)}") from None
    known = state.get("run", {})
    check_recorded_config(folder, known)
    data = read_data(folder, known)
    decay = config.ema[0] if ema is None else ema
    if decay == "none":
        name, weights = "model.safetensors", "raw"
    elif isinstance(decay, str) or decay not in config.ema:
        raise ValueError(f"{folder} has no averages with decay {decay}; it has: {', '.join(map(str, config.ema))} and none")
    else:
        name, weights = ema_file(decay), f"ema {decay:g}"
    shape, specs = tuple(data["shape"]), specs_of(data)
    model = build_model(config, config.target, shape, data["num_classes"], conditions=specs)
    load_weights(model, load_tensors(checkpoints[step] / name), checkpoints[step] / name)
    digest = state["files"].get(name, {}).get("blake2b", "")
    if calibrated:
        model.calibration = adopted_calibration(folder, step, weights, digest)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run(folder, config, data, model.to(device).eval(), step, weights, weights_digest=digest)
    run.place = place
    return run


def calibrate_alike(*runs: Run) -> None:
    """Leave the calibrations out, with a warning, unless all of these runs have one: what is compared must be alike.

    Guidance by a weaker run would otherwise multiply the calibration, and a ranking of weights would rank calibrations.
    """
    without = [f"{run.folder} ({run.weights}, step {run.step})" for run in runs if not run.calibrated]
    if without and len(without) < len(runs):
        for run in runs:
            run.model.calibration = None
        named = ", ".join(dict.fromkeys(without))
        warnings.warn(f"no calibration is used, because {named} has none; kdiff calibrate finds one", stacklevel=2)


def _remedy(checkpoints: dict[int, Path], damaged: int) -> str:
    """What a user can do about a damaged checkpoint."""
    for step in sorted(set(checkpoints) - {damaged}, reverse=True):
        try:
            check_checkpoint(checkpoints[step])
        except ValueError:
            continue
        return (
            f"checkpoint {step} is whole: use it (--checkpoint {step}), or continue training from it (kdiff train … --resume)"
        )
    return "no other checkpoint of this run is whole: restore one from a copy, or train again"
