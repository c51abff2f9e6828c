"""Judge images by a network's features against a reference; a result names all that produced it.

    FOLDER/inception.json (dinov2.json, classifier.json)    figures, what was judged, the reference, the features
    FOLDER/samples_00000.safetensors, …                     a run's samples (`kdiff.evaluation.image_shards`)

Reference, weights and statistics are read and checked before the first sample is drawn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.config.evaluation import EvaluateConfig
from kdiff.config.parts import parse
from kdiff.config.training import TrainConfig
from kdiff.data import LatentSamples
from kdiff.evaluation.features import Dino, Extractor, Inception, OwnClassifier, features_of, fidelity_installed
from kdiff.evaluation.frechet import leave_out_frechet, statistics
from kdiff.evaluation.image_figures import FRECHET, cautions, measure
from kdiff.evaluation.image_shards import (
    decoded,
    draw_samples,
    image_range,
    image_shape,
    prepare_samples,
    sample_settings,
    settings_digest,
)
from kdiff.evaluation.images import Images, check_ranges, data_images, open_images, quantise, value_range
from kdiff.evaluation.reference import (
    Reference,
    check_statistics_path,
    file_reference,
    image_reference,
    is_statistics,
    write_statistics,
)
from kdiff.files.atomic import write_json
from kdiff.run.checkpoint import recorded
from kdiff.run.contents import read_data
from kdiff.run.environment import describe_environment
from kdiff.run.folder import no_run, read_run_config
from kdiff.run.lock import check_held, locked
from kdiff.run.precision_choice import run_in
from kdiff.run.processes import join_processes
from kdiff.run.run import Run, load_run


def evaluate_images(
    source: str, config: EvaluateConfig, out: Path | None = None, progress: str | None = None
) -> tuple[dict[str, Any], Path] | None:
    """Judge a run's samples, a folder of images or a `.npz` of images, and write the result.

    Args:
        source: a run folder; a folder of images, with a size if they are to be scaled, as in `photos(size=64)`; or a `.npz`.
        config: the features, the reference, and how to sample from a run.
        out: folder for the result; if left out, RUN/evaluations/… for a run and evaluations/NAME for images.
        progress: label of the progress bar; None for no bar.

    Returns:
        The result and its file; None in the other processes, which only draw their share of the samples.

    Raises:
        FileNotFoundError, ValueError, TypeError: nothing to judge or to compare with, images or statistics that do not fit, or
            missing weights; all but damaged contents are found before the first sample is drawn.
    """
    main = join_processes().is_main_process
    run = load_run(source, config.checkpoint, config.ema, calibrated=config.calibrated) if is_run(Path(source)) else None
    if run is None and not main:
        return None
    if run is None and (Path(source) / "state.json").is_file():
        raise ValueError(no_run(Path(source)))  # a checkpoint
    if run is None:
        config.check_for_images()
    if run is None and config.reference is None and config.save_statistics is None:
        raise ValueError(f"{source} needs a reference to be compared with: name one with --reference FOLDER, FILE.npz or RUN")
    name = config.features or "inception"
    if run:
        run.autoencoder = config.autoencoder
        run_in(config.precision, run, batch=config.batch_size)
        if config.num_samples < 2:
            raise ValueError(f"num_samples is {config.num_samples}; expected at least 2, and thousands for a reliable figure")
        image_shape(run)
        run.check_guidance(config.guidance)
        settings = sample_settings(run, config)
        out = out or run.folder / "evaluations" / f"step_{run.step:08d}_seed_{config.seed}_{settings_digest(settings)}"
    folder = out or Path("evaluations") / Path(parse(source).name).stem
    if not main:
        assert run
        join_processes().wait_for_everyone()
        draw_samples(run, config, folder)
        return None
    if config.save_statistics:
        check_statistics_path(Path(config.save_statistics))
    # Whatever can be refused is refused here, before hours of sampling.
    notes = range_notes(config, run)
    images = None if run else open_images(source)
    fidelity_installed()
    extractor = find_extractor(name, config, run)
    shape = image_shape(run) if run else images.shape if images else ()
    extractor(torch.zeros(1, *shape, dtype=torch.uint8))
    reference = find_reference(config, run, extractor, shape)
    with locked(folder, "evaluating", run.place) if run else nullcontext():
        facts: dict[str, Any] = {"source": source}
        if run:
            prepare_samples(run, config, folder)
            join_processes().wait_for_everyone()
            images = draw_samples(run, config, folder, progress)
            facts |= {"run": str(run.folder), "data": run.data["fingerprint"], **settings}
            facts |= {"k": (target := run.model.target.describe()).position, "target_state": target.scalars}
        assert images
        facts |= {**images.facts, "num": images.count, "shape": list(images.shape)}
        result = _judged(config, images, facts, extractor, reference and reference(), notes)
        if not run:
            folder.mkdir(parents=True, exist_ok=True)
        check_held(folder)
        write_json(folder / f"{name}.json", result)
    return result, folder / f"{name}.json"


def range_notes(config: EvaluateConfig, run: Run | None) -> list[str]:
    """Warnings about guessed values of black and white in the samples of a run, or in the data of a run as reference.

    Raises:
        ValueError: images would be compared with others that do not share the guess, or statistics of them would be saved.
    """
    judged = run.data if run and not run.latents else None
    if config.save_statistics:
        check_ranges(judged, None, "the images that the saved statistics are for")
    if config.reference is None:
        return check_ranges(judged, judged, "others")
    other = None
    if is_run(path := Path(config.reference)):
        read_run_config(path, TrainConfig)  # refuses a folder that is not trusted
        other = read_data(path, recorded(path))
    return check_ranges(judged, None if other is None or other.get("latents") else other, config.reference)


def is_run(path: Path) -> bool:
    """Whether a folder is a run folder."""
    return (path / "config.yaml").is_file()


def find_extractor(name: str, config: EvaluateConfig, run: Run | None) -> Extractor:
    """The feature network called `name`, with the configured weights; the classifier is that of the reference or the run.

    Raises:
        FileNotFoundError, ValueError: no such weights, a package that is not installed, or no classifier.
    """
    if name == "inception":
        return Inception(config.feature_weights)
    if name == "dinov2":
        return Dino(config.feature_weights)
    if config.reference is not None and is_run(Path(config.reference)):
        run = load_run(config.reference, calibrated=False)
    if run is None:
        raise ValueError("a classifier belongs to a run's data; name the run by --reference RUN, or choose other --features")
    if run.latents:
        raise ValueError(f"{run.folder} was trained on latents, whose classifier takes no images; choose other --features")
    return OwnClassifier(run.dataset())


def find_reference(
    config: EvaluateConfig, run: Run | None, extractor: Extractor, shape: Sequence[int], only: str | None = None
) -> Callable[[], Reference] | None:
    """A function that judges the reference, which is opened and checked now; None if only statistics are to be saved.

    Args:
        config: names the reference.
        run: the run whose own data are the reference if none is named.
        extractor: computes the features.
        shape: (C, H, W) of the images that are compared with the reference.
        only: as for `image_reference`.

    Raises:
        FileNotFoundError, ValueError: nothing at that path, statistics of other features, images of another height or width.
    """
    if config.reference is None and (run is None or config.save_statistics):
        return None
    if config.reference is None or is_run(Path(config.reference)):
        own = run if config.reference is None else load_run(config.reference, calibrated=False)
        assert own
        return partial(image_reference, _as_large(_own_images(own), shape), extractor, config.batch_size, only)
    path = Path(config.reference).expanduser()
    if is_statistics(path):
        return file_reference(path, extractor, config.batch_size, only)
    return partial(image_reference, _as_large(open_images(config.reference), shape), extractor, config.batch_size, only)


def _as_large(images: Images, shape: Sequence[int]) -> Images:
    """The images, which must have the samples' size: networks scale all to one size, and sharper images would be far off."""
    if tuple(images.shape[1:]) != tuple(shape[1:]):
        theirs, ours = (f"{height}×{width}" for height, width in (images.shape[1:], shape[1:]))
        raise ValueError(
            f"the images of the reference are {theirs}, those to be judged {ours}; expected one size: give a folder the option "
            f'size, as in "photos(size={shape[1]})"'
        )
    return images


def _own_images(run: Run) -> Images:
    """The images that a run was trained on."""
    dataset = run.dataset()
    x, _ = dataset.part(run.config.train_on)
    if isinstance(x, LatentSamples):
        raise ValueError(f"{run.folder} was trained on latents, which are not images; name images with --reference")
    facts = {"data": str(run.config.data), "part": run.config.train_on, "fingerprint": dataset.fingerprint}
    return data_images(dataset.name, x, *value_range(run.data), facts)


def _judged(
    config: EvaluateConfig,
    images: Images,
    facts: dict[str, Any],
    extractor: Extractor,
    reference: Reference | None,
    notes: list[str],
) -> dict[str, Any]:
    features = features_of(images, extractor, config.batch_size)
    precision = {"features": "float32", "statistics": "float64", "tf32": torch.backends.cuda.matmul.allow_tf32}
    result: dict[str, Any] = {"samples": facts, "features": extractor.stamp(), "precision": precision}
    result["environment"] = describe_environment()
    if config.save_statistics:
        found = {layer: statistics(features[layer]) for layer in extractor.layers}
        write_statistics(Path(config.save_statistics), found, extractor, facts)
        result["statistics"] = config.save_statistics
    if reference:
        figures, left_out, cautious = measure(features, reference, extractor)
        notes = [*notes, *cautious]
        result["reference"] = dict(reference.facts)
        result["figures"] = {name: asdict(figure) for name, figure in figures.items()}
        result |= {"left_out": left_out, "warnings": notes}
        for note in notes:
            warnings.warn(note, stacklevel=2)
    return result


class FeatureDistance:
    """Fréchet distance of a run's samples to a reference, as by `evaluate_images`, for many sets of samples in turn.

    The reference is judged at once, and only in the features `pool`.

    Args:
        run: the run whose samples are judged; none are drawn here.
        config: features, feature_weights, reference, autoencoder and batch_size, as for `evaluate_images`; num_samples of each
            set.

    Attributes:
        name: name of the figure: fid, fd_dinov2 or fd_classifier.
        stamp: what identifies these distances: features and weights, and a digest of the reference.
        facts: the same for the result, with all facts of the reference, and warnings, which are issued at once too.

    Raises:
        FileNotFoundError, ValueError, TypeError: samples that are not images, an autoencoder that cannot be found, missing
            weights or packages, nothing to compare with, or images or statistics that do not fit.
    """

    def __init__(self, run: Run, config: EvaluateConfig) -> None:
        run.autoencoder, self.run, self.batch_size = config.autoencoder, run, config.batch_size
        notes = range_notes(config, run)
        shape, name = image_shape(run), config.features or "inception"
        self.extractor = find_extractor(name, config, run)
        self.features(torch.zeros(1, *run.shape))
        reference = find_reference(config, run, self.extractor, shape, only="pool")
        assert reference
        judged = reference()
        self.reference = judged.statistics["pool"]
        self.name = FRECHET[name, "pool"]
        self.stamp = {"features": self.extractor.stamp(), "reference": {"digest": judged.facts["digest"]}}
        notes += cautions(config.num_samples, judged, self.extractor)
        self.facts = {"reference": dict(judged.facts), "warnings": notes}
        for note in self.facts["warnings"]:
            warnings.warn(note, stacklevel=2)

    def features(self, x: Tensor) -> Tensor:
        """Features (n, F) of normalised samples x (n, *shape) as bytes; NaN for a batch with an image that is not finite."""
        found = []
        for batch in x.split(self.batch_size):
            images = decoded(self.run, batch)
            if images.isfinite().all():
                found.append(self.extractor(quantise(images, *image_range(self.run)).cpu())["pool"])
            else:
                found.append(torch.full((len(batch), self.extractor.layers["pool"]), math.nan))
        return torch.cat(found)

    def leave_out(self, parts: Sequence[Tensor]) -> tuple[float, list[float]]:
        """The distance of the features in all parts, and without each part; infinite if any feature is not finite."""
        if not all(part.isfinite().all() for part in parts):
            return math.inf, [math.inf] * len(parts)
        return leave_out_frechet(parts, self.reference)
