"""Latent folders: every row is the one on disk, what training draws has the right law, and what is not whole is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from scipy import stats

from kdiff.data import LatentSamples, latents, load, load_latents
from kdiff.data.dataset import PARTS
from kdiff.data.normalisation import Normalisation
from kdiff.data.shards import map_tensors
from kdiff.files.atomic import file_digest

COUNT, SIZE, SHAPE = 150, 32, (3, 2, 4)
GENERATOR = np.random.default_rng(0)
SCALES = np.array([0.2, 1.0, 30.0]).reshape(3, 1, 1)
ARRAYS = {
    "mean": (GENERATOR.normal(size=(COUNT, *SHAPE)) * SCALES + 2 * SCALES).astype(np.float32),
    "std": (GENERATOR.uniform(0.5, 1.5, (COUNT, *SHAPE)) * SCALES).astype(np.float32),
    "mean_flipped": (GENERATOR.normal(size=(COUNT, *SHAPE)) * SCALES - 5 * SCALES).astype(np.float32),
    "std_flipped": (GENERATOR.uniform(0.1, 0.2, (COUNT, *SHAPE)) * SCALES).astype(np.float32),
    "y": GENERATOR.integers(0, 5, COUNT),
    "split": GENERATOR.choice(3, COUNT, p=(0.6, 0.2, 0.2)).astype(np.int8),
}
TRAIN = ARRAYS["split"] == 0


def write(folder: Path, flip: bool = True, posterior: bool = True, labels: bool = True, dtype: str = "float32") -> Path:
    """A latent folder as kdiff encode leaves it, with statistics worked out here."""
    folder.mkdir(parents=True)
    left_out = [name for name in ARRAYS if ("flip" in name and not flip) or ("std" in name and not posterior)]
    arrays = {k: v for k, v in ARRAYS.items() if k not in left_out and (k != "y" or labels)}
    shards = []
    for number, start in enumerate(range(0, COUNT, SIZE)):
        file = folder / f"shard_{number:05d}.safetensors"
        cut = {k: v[start : start + SIZE] for k, v in arrays.items()}
        save_file({k: np.ascontiguousarray(v.astype(dtype) if v.dtype == np.float32 else v) for k, v in cut.items()}, file)
        shards.append({"file": file.name, "bytes": file.stat().st_size, "blake2b": file_digest(file)})
    mean, std = ARRAYS["mean"][TRAIN].astype(float), ARRAYS["std"][TRAIN].astype(float)
    manifest = {
        "format": 1,
        "source": {"data": "photos", "fingerprint": "f", "shape": [3, 4, 8], "normalisation": Normalisation.none().describe()},
        "autoencoder": {"source": "here", "class": "AutoencoderKL", "identity": "i", "scaling": 0.25, "shift": 3.0},
        "num_samples": COUNT,
        "num_classes": 5 if labels else 0,
        "shape": list(SHAPE),
        "flip": flip,
        "posterior": posterior,
        "dtype": dtype,
        "shard_size": SIZE,
        "about": {"class_names": list("abcde")},
        "shards": shards,
        "statistics": {
            "mean": mean.mean((0, 2, 3)).tolist(),
            "variance": mean.var((0, 2, 3)).tolist(),
            "posterior_variance": (std**2).mean((0, 2, 3)).tolist() if posterior else None,
        },
    }
    (folder / "latents.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "mine")


def change(folder: Path, **values: Any) -> None:
    path = folder / "latents.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def standardised(x: torch.Tensor, rows: Any, flipped: bool = False) -> torch.Tensor:
    """(x − mean)/std of these rows: noise, if x was drawn from their posteriors."""
    suffix = "_flipped" if flipped else ""
    return (x - torch.from_numpy(ARRAYS["mean" + suffix][rows])) / torch.from_numpy(ARRAYS["std" + suffix][rows])


# Rows


@pytest.mark.parametrize(
    "rows",
    [
        3,
        -1,
        slice(None),
        slice(10, 140, 7),
        slice(0, 0),
        torch.tensor([5, 149, 1, 64, -2, 5]),
        torch.arange(33, 40),
        torch.arange(149, -1, -1),
        torch.tensor(4),
        torch.tensor([], dtype=torch.int64),
        torch.arange(COUNT) % 3 == 1,
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_those_on_disk(tmp_path: Path, rows: Any, dtype: str) -> None:
    """Within a shard, across shards, few and many: against one array."""
    data = load_latents(write(tmp_path / "a", dtype=dtype), normalise="none")
    whole = torch.from_numpy(ARRAYS["mean"].astype(dtype).astype(np.float32))
    for x, expected in ((data.x, whole), (data.part("train")[0], whole[TRAIN])):
        if not isinstance(rows, torch.Tensor) or rows.dtype == torch.bool or len(expected) == COUNT:
            index = rows[: len(expected)] if isinstance(rows, torch.Tensor) and rows.dtype == torch.bool else rows
            found = x[index]
            assert found.dtype == torch.float32
            assert found.is_contiguous()
            assert torch.equal(found, expected[index])


def test_rows_out_of_range(folder: Path) -> None:
    data = load_latents(folder)
    for x in (data.x, data.part("heldout")[0]):
        for rows in (len(x), -len(x) - 1, torch.tensor([0, len(x)])):
            with pytest.raises(IndexError):
                x[rows]


def test_a_part_is_that_of_the_image(folder: Path) -> None:
    data = load(folder, normalise="none")
    for index, name in enumerate(PARTS):
        x, y = data.part(name)
        chosen = ARRAYS["split"] == index
        assert torch.equal(x[:], torch.from_numpy(ARRAYS["mean"][chosen]))
        assert y is not None
        assert y.tolist() == ARRAYS["y"][chosen].tolist()
    assert (data.name, data.shape, data.num_classes, data.flip) == ("mine", SHAPE, 5, True)


def test_the_description_is_json_and_says_how_to_decode(folder: Path) -> None:
    data = load_latents(folder)
    described = json.loads(json.dumps(data.describe()))
    train = data.part("train")[0][:].double()
    assert described["total_variance"] == pytest.approx(train.var(0, correction=0).sum().item(), rel=1e-6)
    assert described["class_names"] == list("abcde")
    assert described["latents"]["autoencoder"]["identity"] == "i"
    assert described["latents"]["images"]["shape"] == [3, 4, 8]
    assert described["latents"]["folder"] == str(folder)


def test_without_labels(tmp_path: Path) -> None:
    data = load_latents(write(tmp_path / "a", labels=False))
    assert data.y is None
    assert data.num_classes == 0


# Normalisation


def test_channels_are_standardised_by_the_training_part(folder: Path) -> None:
    train = load_latents(folder).part("train")[0][:].double()
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.var((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)


def test_with_noise_the_whole_variance_is_one(folder: Path) -> None:
    """Var(mean + std · noise) = Var(mean) + E std²: 400 reads of 95 latents of 8 entries."""
    train = load_latents(folder, posterior=True, flip=False).part("train", augment=True)[0]
    drawn = torch.cat([train[:] for _ in range(400)])
    torch.testing.assert_close(drawn.var((0, 2, 3)), torch.ones(3), atol=0.02, rtol=0)


@pytest.mark.filterwarnings("ignore:.*root mean square of the latents")
def test_the_autoencoders_own_scale(folder: Path) -> None:
    data = load_latents(folder, normalise="scaling")
    torch.testing.assert_close(data.x[:], torch.from_numpy((ARRAYS["mean"] - 3.0) * 0.25))
    torch.testing.assert_close(data.normalisation.undo(data.x[:]), torch.from_numpy(ARRAYS["mean"]))


def scaled(folder: Path, **scale: Any) -> torch.Tensor:
    autoencoder = {"source": "here", "class": "AutoencoderKL", "identity": "i", "scaling": 1.0, "shift": 0.0, **scale}
    change(folder, autoencoder=autoencoder)
    data = load_latents(folder, normalise="scaling")
    torch.testing.assert_close(data.normalisation.undo(data.x[:]), torch.from_numpy(ARRAYS["mean"]))
    return data.x[:]


@pytest.mark.filterwarnings("ignore:.*root mean square of the latents")
def test_the_autoencoders_own_mean_and_std_by_channel(folder: Path) -> None:
    """(latent − mean) · scaling / std, as pipelines of diffusers have it."""
    mean, std = np.array([-1.6, 0.5, 30.0]), np.array([8.4, 5.9, 0.01])
    expected = (ARRAYS["mean"] - mean[:, None, None]) * 0.5 / std[:, None, None]
    found = scaled(folder, scaling=0.5, mean=mean.tolist(), std=std.tolist())
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-4)


def test_a_scale_that_is_not_known_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"normalise is scaling, but here holds no factor .*; take normalise=channels"):
        scaled(folder, scaling=None)
    with pytest.raises(ValueError, match="the mean and std of its autoencoder are not those of 3 channels"):
        scaled(folder, mean=[0.0] * 12, std=[1.0] * 12)


def test_numbers_that_do_not_suit_the_latents_are_said(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    """The channels here have the deviations 0.2, 1 and 30, and means twice as large."""
    scaled(folder, mean=[0.4, 2.0, 60.0], std=[0.2, 1.0, 30.0])
    assert not list(recwarn)
    for factor, rms in ((100.0, "0.01"), (0.01, "1e\\+02")):
        std = [factor * each for each in (0.2, 1.0, 30.0)]
        with pytest.warns(UserWarning, match=f"the root mean square of the latents is {rms}, .* take normalise=channels"):
            scaled(folder, mean=[0.4, 2.0, 60.0], std=std)


@pytest.mark.filterwarnings("ignore:.*root mean square of the latents")
def test_draws_from_a_posterior_that_the_autoencoder_does_not_have(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", posterior=False)
    with pytest.raises(ValueError, match="or encode with --posterior true into another folder"):
        load_latents(folder, posterior=True)
    scaled(folder, **{"class": "AutoencoderDC", "posterior": False})
    with pytest.raises(ValueError, match=r"was encoded without posterior; leave posterior out: an AutoencoderDC has none$"):
        load_latents(folder, posterior=True)


def test_the_scale_of_other_latents(folder: Path, tmp_path: Path) -> None:
    """Their folder's, or that of a file as published beside VA-VAE: what was trained on those meets the same values here."""
    others = write(tmp_path / "others")
    statistics = {"mean": [1.0, 2.0, 3.0], "variance": [4.0, 9.0, 16.0], "posterior_variance": [5.0, 7.0, 9.0]}
    change(others, statistics=statistics)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in ([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]))
    torch.save({"mean": mean, "std": std}, tmp_path / "latents_stats.pt")
    save_tensors({"mean": mean.flatten(), "std": std.flatten()}, tmp_path / "stats.safetensors")
    expected = (torch.from_numpy(ARRAYS["mean"]) - mean) / std
    for source in (others, tmp_path / "latents_stats.pt", tmp_path / "stats.safetensors"):
        data = load_latents(folder, normalise=str(source))
        torch.testing.assert_close(data.x[:], expected)
        torch.testing.assert_close(data.normalisation.undo(data.x[:]), torch.from_numpy(ARRAYS["mean"]), atol=1e-5, rtol=1e-5)
    drawn = load_latents(folder, normalise=str(others), posterior=True).normalisation
    torch.testing.assert_close(drawn.scale.flatten(), torch.tensor([3.0, 4.0, 5.0]))


def test_statistics_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    save_tensors({"mean": torch.zeros(4), "std": torch.ones(4)}, tmp_path / "four.safetensors")
    with pytest.raises(ValueError, match=r"it holds mean \(4,\), std \(4,\); expected mean and std of 3 channels"):
        load_latents(folder, normalise=str(tmp_path / "four.safetensors"))
    others = write(tmp_path / "others")
    manifest = json.loads((others / "latents.json").read_text())
    for changes in ({"statistics": None}, {"autoencoder": {**manifest["autoencoder"], "identity": "j"}}):
        change(others, **{**manifest, **changes})
        with pytest.raises(ValueError, match="of another autoencoder, or not all encoded"):
            load_latents(folder, normalise=str(others))


def test_a_constant_channel_is_only_shifted(folder: Path) -> None:
    statistics = json.loads((folder / "latents.json").read_text())["statistics"]
    change(folder, statistics={**statistics, "variance": [0.0, 1.0, 1.0]})
    assert load_latents(folder).normalisation.scale.flatten().tolist() == [1, 1, 1]


# What training draws


def test_noise_is_standard_normal_and_new_with_every_read(folder: Path) -> None:
    x = load_latents(folder, normalise="none", posterior=True, flip=False).x
    assert isinstance(x, LatentSamples)
    drawn = x.select(torch.arange(COUNT), augment=True)
    noise = torch.stack([standardised(drawn[:], slice(None)) for _ in range(20)])
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    between = np.corrcoef(noise[:, :, 0, 0, 0].T.numpy())[np.triu_indices(COUNT, 1)]
    assert np.abs(between).mean() < 0.25  # 20 draws: 0.18 for independent latents, 1 for one noise for all
    assert not torch.equal(noise[0], noise[1])


def test_what_is_drawn_depends_on_seed_and_row_alone(folder: Path) -> None:
    data = load_latents(folder, posterior=True)
    train = data.part("train", augment=True)[0]
    rows = torch.tensor([3, 70, 11, 40])

    def read(order: torch.Tensor, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return train[order]

    assert torch.equal(read(rows, 1), read(rows, 1))
    assert not torch.equal(read(rows, 1), read(rows, 2))
    assert torch.equal(read(rows.flip(0), 1).flip(0), read(rows, 1))
    assert torch.equal(read(rows[:1], 1), read(rows, 1)[:1])


def test_half_of_what_is_read_is_mirrored(folder: Path) -> None:
    """20 reads of 150 latents: 1500 ± 27."""
    for posterior in (False, True):
        x = load_latents(folder, normalise="none", posterior=posterior).x
        assert isinstance(x, LatentSamples)
        drawn = x.select(torch.arange(COUNT), augment=True)
        count = 0
        for _ in range(20):
            found = drawn[:]
            mirrored, straight = (standardised(found, slice(None), way).abs().amax((1, 2, 3)) < 6 for way in (True, False))
            assert (mirrored ^ straight).all()
            count += int(mirrored.sum())
            if not posterior:
                assert torch.equal(found[mirrored], torch.from_numpy(ARRAYS["mean_flipped"])[mirrored])
                assert torch.equal(found[~mirrored], torch.from_numpy(ARRAYS["mean"])[~mirrored])
        assert 1350 < count < 1650


def test_only_training_draws(folder: Path) -> None:
    data = load_latents(folder, normalise="none", posterior=True)
    for x in (data.x, data.part("train")[0], data.part("heldout")[0]):
        assert torch.equal(x[:], x[:])
    assert torch.equal(data.x[:], torch.from_numpy(ARRAYS["mean"]))
    quiet = load_latents(folder, normalise="none", flip=False).part("train", augment=True)[0]
    assert torch.equal(quiet[:], torch.from_numpy(ARRAYS["mean"][TRAIN]))


# Refusals


def test_no_latents(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no latents in .*nothing: it has no latents.json; kdiff encode"):
        load_latents(tmp_path / "nothing")


def test_an_unfinished_encoding(folder: Path) -> None:
    manifest = json.loads((folder / "latents.json").read_text())
    change(folder, statistics=None, shards=manifest["shards"][:2])
    options = "--flip true --posterior true --dtype float32 --shard_size 32"
    again = rf"kdiff encode photos --autoencoder here --out .*mine {options} resumes the encoding"
    with pytest.raises(ValueError, match=f"only 2 of 5 shards are there; {again}"):
        load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), r"shard_00003.safetensors is missing; kdiff encode .* resumes the encoding"),
        (
            lambda file: file.write_bytes(file.read_bytes()[:-9]),
            r"shard_00003.safetensors is cut short: it has \d+ bytes; expected \d+",
        ),
        (lambda file: file.write_bytes(file.read_bytes() + b"."), "shard_00003.safetensors is too long"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"!"), "shard_00003.safetensors is damaged: its checksum"),
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_a_shard_that_is_not_whole(folder: Path, damage: Any, message: str, before: bool) -> None:
    """Also where the folder has been read, and checked, before."""
    if before:
        load_latents(folder)
    damage(folder / "shard_00003.safetensors")
    with pytest.raises(ValueError, match=message):
        load_latents(folder)


def test_checksums_are_compared_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_latents(folder)
    monkeypatch.setattr(latents, "file_digest", lambda path: pytest.fail("read again"))
    again = load_latents(folder)
    assert again.fingerprint == first.fingerprint
    assert again.describe() == first.describe()


def test_the_fingerprint_is_of_the_latents(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    other = write(tmp_path / "other", posterior=False)
    assert load_latents(moved).fingerprint == load_latents(folder).fingerprint != load_latents(other).fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise": "features"}, "one of channels, scaling, none for latents, or .*found 'features'"),
        ({"posterior": True}, "encoded without posterior; leave posterior out, or encode with --posterior true"),
        ({"flip": True}, "encoded without flip"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_latents(write(tmp_path / "a", flip=False, posterior=False), **options)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (
            True,
            4,
            r"latents.json: labels must lie in 0 … 3 \(num_classes=4\), found 0 … 4, the first one out of range in sample",
        ),
        (True, 0, "num_classes must be at least 1"),
        (False, 5, "without labels"),
    ],
)
def test_a_number_of_classes_that_is_not_the_labels(tmp_path: Path, labels: bool, classes: int, message: str) -> None:
    """One too few would make the last class "no class"."""
    folder = write(tmp_path / "a", labels=labels)
    change(folder, num_classes=classes)
    with pytest.raises(ValueError, match=message):
        load_latents(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is damaged"), ("[]", "is damaged"), ('{"format": 7}', "has format 7; this version of kdiff reads format 1")],
)
def test_a_manifest_that_cannot_be_read(folder: Path, text: str, message: str) -> None:
    (folder / latents.MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_latents(folder)


def test_any_damage_of_the_manifest_is_refused_or_harmless(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    file = folder / latents.MANIFEST
    text, refused = file.read_text(), 0

    def places(value: object, at: tuple = ()) -> Iterator[tuple]:
        yield from [at] if at else []
        for key in value if isinstance(value, dict) else range(min(len(value), 1)) if isinstance(value, list) else ():
            yield from places(value[key], (*at, key))

    for at in places(json.loads(text)):
        for new in (None, "text", -7, 1.5, True, [], {}, [None]):
            whole = value = json.loads(text)
            for key in at[:-1]:
                value = value[key]
            value[at[-1]] = new
            file.write_text(json.dumps(whole))
            try:
                load_latents(folder)
            except ValueError as error:
                assert "\n" not in str(error)  # noqa: PT017
                refused += 1
    assert refused > 150


@pytest.mark.parametrize("keep", [0, 5, 8, 30, 400])
def test_a_file_cut_anywhere_is_refused_by_name(folder: Path, keep: int) -> None:
    file = folder / "shard_00000.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"shard_00000.safetensors is cut short or damaged"):
        map_tensors(file)
