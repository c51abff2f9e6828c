"""The reference that samples are compared with, and its statistics in the usual file formats.

    ADM, JiT    .npz   mu (F,), sigma (F, F); ADM's also mu_s, sigma_s (2023), for sFID, and arr_0, images
    EDM         .npz   mu, sigma
    kdiff       .npz   mu, sigma, for Inception mu_s and sigma_s, and kdiff: JSON with the features, their weights and N

sigma is unbiased, divided by N - 1, in all of them. A file of kdiff names its features, and other features are refused; any
other file shows only how many features there are. EDM2 writes pickles, which are not read.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.data.declared import check_declared
from kdiff.evaluation.features import Extractor, features_of
from kdiff.evaluation.frechet import FeatureMoments, FeatureStatistics
from kdiff.evaluation.images import SAMPLES, Images, open_images, opened_npz, pickle_hint
from kdiff.evaluation.subsets import drawn
from kdiff.files.atomic import new_file

KEYS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
STAMP = "kdiff"
MAX_KEPT = 50_000  # reference images whose features are kept, for KID, precision and recall


@dataclass(frozen=True)
class Reference:
    """Statistics by layer, for Fréchet distances; features of (up to 50,000 of) the images, if there are images; facts.

    The facts include a digest of the images' bytes or of the statistics, which does not depend on their path.
    """

    statistics: Mapping[str, FeatureStatistics]
    features: Tensor | None
    facts: Mapping[str, Any]


def image_reference(images: Images, extractor: Extractor, batch_size: int, only: str | None = None) -> Reference:
    """A reference made of images; its statistics are of all images, gathered a batch at a time.

    Args:
        images: the images; all are read.
        extractor: computes their features.
        batch_size: images at a time.
        only: the one layer to compute statistics of, without keeping features; all layers, and features, if left out.
    """
    moments = {layer: FeatureMoments() for layer in ([only] if only else extractor.layers)}
    digest = hashlib.blake2b(repr(images.shape).encode(), digest_size=8)
    kept, keep, first = [], drawn(images.count, 0 if only else MAX_KEPT).sort().values, 0
    for batch in images.read(batch_size):
        digest.update(batch.contiguous().numpy().data)
        found = extractor(batch)
        for layer, moment in moments.items():
            moment.add(found[layer])
        kept.append(found["pool"][keep[(keep >= first) & (keep < first + len(batch))] - first])
        first += len(batch)
    facts = {**images.facts, "num": images.count, "shape": list(images.shape), "digest": digest.hexdigest()}
    features = None if only else torch.cat(kept)
    return Reference({layer: moment.statistics() for layer, moment in moments.items()}, features, facts)


def is_statistics(path: Path) -> bool:
    """Whether a file holds statistics; a pickle or a damaged `.npz` raises ValueError."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    return "mu" in _arrays(path)


def file_reference(path: Path, extractor: Extractor, batch_size: int, only: str | None = None) -> Callable[[], Reference]:
    """A reference of the statistics in a file, and of its images if it has any, as ADM's; these are judged when it is called.

    `only` is as for `image_reference`; the images are then ignored.

    Raises:
        ValueError: a damaged file, or statistics of other features.
    """
    statistics, stamp = read_statistics(path, extractor)
    digest = hashlib.blake2b(digest_size=8)
    for values in (tensor for each in statistics.values() for tensor in (each.mean, each.covariance)):
        digest.update(values.contiguous().numpy().data)
    facts: dict[str, Any] = {"statistics": str(path), "num": statistics["pool"].count or None, "stamp": stamp}
    facts["digest"] = digest.hexdigest()
    if only:
        return lambda: Reference({only: statistics[only]}, None, facts)
    images = open_images(str(path)) if SAMPLES in _arrays(path) else None

    def judge() -> Reference:
        if images is None:
            return Reference(statistics, None, facts)
        rows = drawn(images.count, MAX_KEPT).sort().values
        features = features_of(images, extractor, batch_size, rows)["pool"]
        return Reference(statistics, features, {**facts, "beside": images.count})

    return judge


def write_statistics(
    path: Path, statistics: Mapping[str, FeatureStatistics], extractor: Extractor, facts: Mapping[str, Any]
) -> None:
    """Write statistics by layer, and what they are of; the evaluations of ADM, EDM and JiT can read the file.

    Raises:
        ValueError: a path that does not end in .npz.
    """
    check_statistics_path(path)
    arrays: dict[str, Any] = {}
    for layer, values in statistics.items():
        mean, covariance = KEYS[layer]
        arrays |= {mean: values.mean.numpy(), covariance: values.covariance.numpy()}
    stamp = {"features": extractor.stamp(), "num": statistics["pool"].count, "of": dict(facts)}
    arrays[STAMP] = np.array(json.dumps(stamp))
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)


def check_statistics_path(path: Path) -> None:
    """Raise ValueError for a path that does not end in .npz."""
    if path.suffix != ".npz":
        raise ValueError(f"statistics are written as .npz, found {path}; expected a path such as {path.with_suffix('.npz')}")


def read_statistics(path: Path, extractor: Extractor) -> tuple[dict[str, FeatureStatistics], dict[str, Any] | None]:
    """Statistics by layer, as far as the file has them, and the stamp of a file that kdiff wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file or one of another kind, statistics of other features, or arrays that are not statistics.
    """
    if not path.exists():
        raise FileNotFoundError(f"no statistics at {path}")
    names, stamp = _arrays(path), _stamp(path)
    if stamp:
        theirs, ours = stamp["features"], extractor.stamp()
        if (theirs["name"], theirs["weights"]) != (ours["name"], ours["weights"]):
            raise ValueError(
                f"{path} has features {theirs['name']} with weights {theirs['weights']}; expected {ours['name']} with weights "
                f"{ours['weights']}: name the file's features and weights, or make statistics with --save-statistics"
            )
    statistics = {}
    for layer, size in extractor.layers.items():
        mean_name, covariance_name = KEYS[layer]
        if mean_name not in names and layer != "pool":
            continue
        if missing := {mean_name, covariance_name} - names:
            raise ValueError(f"{path} holds {', '.join(sorted(names))}; expected {' and '.join(sorted(missing))} too")
        mean, covariance = (torch.from_numpy(_numbers(path, name)) for name in (mean_name, covariance_name))
        if mean.shape != (size,) or covariance.shape != (size, size):
            raise ValueError(
                f"{path}: {mean_name} has shape {tuple(mean.shape)} and {covariance_name} {tuple(covariance.shape)}; expected "
                f"{size} features ({extractor.name}): choose the file's --features, or make statistics with --save-statistics"
            )
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise ValueError(f"{path}: {mean_name} or {covariance_name} is not finite; create it again")
        statistics[layer] = FeatureStatistics(mean, (covariance + covariance.T) / 2, stamp["num"] if stamp else 0)
    return statistics, stamp


def _stamp(path: Path) -> dict[str, Any] | None:
    """The stamp of a file that kdiff wrote; None for a file of another program."""
    if STAMP not in _arrays(path):
        return None
    try:
        stamp: dict[str, Any] = json.loads(str(_array(path, STAMP)))
        _ = stamp["features"]["name"], stamp["features"]["weights"], stamp["num"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: {STAMP} does not name the features of the statistics; create them again") from None
    return stamp


def _arrays(path: Path) -> set[str]:
    """The names of the arrays in a `.npz`."""
    if path.suffix != ".npz":
        raise ValueError(f"{path} is not a .npz of statistics{pickle_hint(path)}")
    with opened_npz(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def _array(path: Path, name: str) -> np.ndarray:
    try:
        check_declared(path, name, samples=False)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: {name} cannot be read ({error}); it is damaged or pickled: create it again") from None


def _numbers(path: Path, name: str) -> np.ndarray:
    values = _array(path, name)
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {name} is of type {values.dtype}, expected numbers")
    return values.astype(np.float64)
