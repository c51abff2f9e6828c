"""Encoding: shards hold what the autoencoder gives; interrupted, it ends with the same bytes; nothing is mixed up."""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kdiff.commands.main import main
from kdiff.config.autoencoding import EncodeConfig
from kdiff.config.parts import parse
from kdiff.config.training import TrainConfig
from kdiff.data import SOURCES, load
from kdiff.latent import Autoencoder, load_autoencoder
from kdiff.latent.autoencoder import decoder
from kdiff.run import processes
from kdiff.run.build import load_dataset
from kdiff.training import encoding as module_under_test
from kdiff.training.encoding import encode
from kdiff.training.trainer import train_run

COUNT, SIZE = 70, 16
# Python runs a sitecustomize.py on its path as it starts. Here it makes a process of torchrun note its threads at the end, and
# abort if Python is torn down, as a thread of torch would abort it.
ENDS = """
import atexit, os
from pathlib import Path

class Torn:
    def __del__(self, abort=os.abort):
        abort()

def note(rank):
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    (Path(__file__).parent / f"threads_{rank}").write_text("".join(names))

if "RANK" in os.environ:
    torn = Torn()
    if os.path.isdir("/proc/self/task"):
        atexit.register(note, os.environ["RANK"])
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 colour images 8×8 of three classes."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    generator = np.random.default_rng(0)
    np.savez(path, x=generator.integers(0, 256, (COUNT, 3, 8, 8), np.uint8), y=generator.integers(0, 3, COUNT))
    return path


@pytest.fixture(scope="module")
def config(images: Path, autoencoder_folder: Path) -> EncodeConfig:
    return EncodeConfig(str(images), str(autoencoder_folder), flip=True, posterior=True, shard_size=SIZE)


@pytest.fixture(scope="module")
def whole(config: EncodeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoding that was not interrupted."""
    folder = tmp_path_factory.mktemp("latents") / "whole"
    encode(config, folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def shards(folder: Path) -> dict[str, torch.Tensor]:
    files = [load_file(file) for file in sorted(folder.glob("shard_*.safetensors"))]
    return {name: torch.cat([file[name] for file in files]) for name in files[0]}


def test_shards_hold_what_the_autoencoder_gives(config, whole, autoencoder_folder) -> None:
    """Directly encoded in the same batches: mean and deviation, of the images and of the mirrored ones."""
    dataset, autoencoder, found = load_dataset(config), load_autoencoder(autoencoder_folder), shards(whole)
    for suffix, x in (("", dataset.x), ("_flipped", dataset.x.flip(-1))):
        pairs = [autoencoder.encode(batch) for batch in x.split(SIZE)]
        for name, values in zip(("mean", "std"), zip(*pairs)):
            assert torch.equal(found[name + suffix], torch.cat(values))
    assert not torch.equal(found["mean_flipped"], found["mean"].flip(-1))  # why they are stored
    assert torch.equal(found["y"], dataset.y)
    assert torch.equal(found["split"], dataset.split)
    assert len(list(whole.glob("shard_*"))) == 5


@pytest.mark.filterwarnings("ignore:.*root mean square of the latents")
def test_loaded_they_are_the_latents_of_the_images(config, whole, autoencoder_folder) -> None:
    dataset, latents = load_dataset(config), load(whole, normalise="none")
    for part in ("train", "classifier", "heldout"):
        x, y = dataset.part(part)
        mean, _ = load_autoencoder(autoencoder_folder).encode(x)
        z, labels = latents.part(part)
        torch.testing.assert_close(z[:], mean, atol=1e-5, rtol=1e-5)
        assert torch.equal(labels, y)
    assert latents.num_classes == 3
    scaled = load(whole, normalise="scaling").x[:]
    torch.testing.assert_close(scaled, (latents.x[:] - 0.5) * 0.25)


@pytest.mark.filterwarnings("ignore:.*root mean square of the latents")
def test_a_run_is_not_resumed_on_another_scale(copy, tmp_path) -> None:
    """The shards, and so the fingerprint, are the same; what the autoencoder's authors scale by is recorded beside them."""
    data = {"name": str(copy), "normalise": "scaling"}
    config = TrainConfig(data=data, network="MLP(width=8, depth=1)", steps=1, batch_size=8, ema=[0.5], split_loss=False)
    train_run(config, tmp_path / "run")
    manifest = json.loads((copy / "latents.json").read_text())
    manifest["autoencoder"] |= {"shift": 0.0, "mean": [0.0] * 4, "std": [1.0, 2.0, 3.0, 4.0]}
    (copy / "latents.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ValueError, match=r"began, its data have changed: the data are normalised by scaling .*scale 4\)\..*another folder"
    ):
        train_run(replace(config, steps=2), tmp_path / "run", resume=True)


def test_statistics_are_those_of_the_training_part(whole) -> None:
    found, values = shards(whole), json.loads((whole / "latents.json").read_text())["statistics"]
    mean, std = (found[name][found["split"] == 0].double() for name in ("mean", "std"))
    assert values["mean"] == pytest.approx(mean.mean((0, 2, 3)).tolist(), rel=1e-9)
    assert values["variance"] == pytest.approx(mean.var((0, 2, 3), correction=0).tolist(), rel=1e-9)
    assert values["posterior_variance"] == pytest.approx(std.square().mean((0, 2, 3)).tolist(), rel=1e-9)


def test_decoding_is_the_autoencoders(whole, autoencoder_folder) -> None:
    facts = load(whole).about["latents"]["autoencoder"]
    latents = load(whole, normalise="none").x[:4]
    found = decoder(facts["source"], facts["identity"]).decode(latents)
    assert torch.equal(found, load_autoencoder(autoencoder_folder).decode(latents))


def test_without_flips_and_deviations_and_in_half_precision(config, whole, tmp_path) -> None:
    encode(replace(config, flip=False, posterior=False, dtype="float16"), tmp_path / "a")
    found = shards(tmp_path / "a")
    assert found.keys() == {"mean", "y", "split"}
    assert torch.equal(found["mean"], shards(whole)["mean"].half())
    torch.testing.assert_close(load(tmp_path / "a").x[:], load(whole).x[:], atol=5e-3, rtol=5e-3)


def test_in_bfloat16_latents_are_near_and_the_folder_keeps_its_precision(config, whole, tmp_path, capsys, monkeypatch) -> None:
    """auto continues in the precision of the folder, whatever is faster here. Folders of float32 have no such entry."""
    half = replace(config, precision="bf16")
    encode(half, tmp_path / "half")
    rough, exact = shards(tmp_path / "half")["mean"], shards(whole)["mean"]
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() < 0.02 * exact.norm()
    assert json.loads((tmp_path / "half" / "latents.json").read_text())["precision"] == "bf16"
    assert "precision" not in json.loads((whole / "latents.json").read_text())
    before = (tmp_path / "half" / "latents.json").read_bytes()
    encode(replace(config, precision="auto"), tmp_path / "half")
    assert (tmp_path / "half" / "latents.json").read_bytes() == before
    with pytest.raises(ValueError, match="was begun with precision bf16; use the same"):
        encode(config, tmp_path / "half")
    choice = module_under_test.choose_precision
    monkeypatch.setattr(module_under_test, "choose_precision", lambda *given: replace(choice(*given), precision="bf16"))
    encode(replace(config, precision="auto"), tmp_path / "auto", progress="encoding")
    assert "precision bf16" in capsys.readouterr().err
    assert torch.equal(shards(tmp_path / "auto")["mean"], rough)


def test_mirrored_images_are_encoded_where_training_mirrors(config, tmp_path) -> None:
    once = replace(config, data={"name": config.data.name, "flip": True}, flip=None, posterior=False)
    assert encode(once, tmp_path / "a")[0]["flip"]
    assert not encode(replace(once, data=config.data), tmp_path / "b")[0]["flip"]


# Interrupted


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("where", ["save_tensors", "write_json", "_encoded"])
def test_interrupted_it_ends_with_the_same_bytes(config, whole, tmp_path, contents, monkeypatch, after, where) -> None:
    """Stopped while it encodes, writes a shard or lists it; it does not encode again what is listed."""
    original: Callable[..., Any] = getattr(module_under_test, where)
    calls = 0

    def stop(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return original(*arguments)

    folder = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(module_under_test, where, stop)
        with pytest.raises(KeyboardInterrupt):
            encode(config, folder)
    listed = len(json.loads((folder / "latents.json").read_text())["shards"]) if (folder / "latents.json").exists() else 0
    encoded = []
    with monkeypatch.context() as patch:
        patch.setattr(module_under_test, "_encoded", lambda *given: encoded.append(given[3]) or original_encoded(*given))
        encode(config, folder)
    assert len(encoded) == 5 - listed
    assert listed == max(0, after - (where == "write_json"))
    assert contents(folder) == {**contents(whole), ".lock": b""}


original_encoded = module_under_test._encoded


def test_once_more_it_changes_nothing(config, copy, contents, monkeypatch) -> None:
    before = contents(copy)
    monkeypatch.setattr(module_under_test, "_encoded", lambda *given: pytest.fail("encoded again"))
    monkeypatch.setattr(module_under_test, "channel_statistics", lambda *given: pytest.fail("the statistics were there"))
    encode(config, copy)
    assert contents(copy) == before


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"!", None])
def test_a_damaged_shard_is_made_anew(config, whole, copy, contents, damage) -> None:
    file = copy / "shard_00002.safetensors"
    file.write_bytes(damage(file.read_bytes())) if damage else file.unlink()
    with pytest.raises(ValueError, match=r"shard_00002.safetensors is .*kdiff encode .* resumes the encoding"):
        load(copy)
    with pytest.warns(UserWarning, match=r"shard_00002.safetensors is .*; the shard is encoded again"):
        encode(config, copy)
    found = contents(copy)
    assert "shard_00002" in found.pop("warnings.log").decode()
    assert found == contents(whole)
    assert load(copy).fingerprint == load(whole).fingerprint


def test_two_processes_make_the_same_bytes_and_go_on_together(config, whole, copy, tmp_path, contents) -> None:
    """Five shards on two processes; then two that one process left out, the picture by the first alone.

    Neither process can abort at its end: no thread of their connection is left, and Python is not torn down.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "kdiff", "encode"]
    command += [str(config.data), "--autoencoder", config.autoencoder, "--flip", "true", "--posterior", "true"]
    command += ["--shard_size", str(SIZE), "--out"]
    (copy / "shard_00001.safetensors").unlink()
    (copy / "shard_00004.safetensors").write_bytes(b"cut short")
    ends = tmp_path / "ends"
    ends.mkdir()
    (ends / "sitecustomize.py").write_text(ENDS)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums are rounded as in `whole`
    environment["PYTHONPATH"] = os.pathsep.join([str(ends), *filter(None, [os.environ.get("PYTHONPATH")])])
    for folder in (tmp_path / "a", copy):
        result = subprocess.run(
            [*command, str(folder)], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("70 latents") == 1
        found = contents(folder)
        assert found.pop("reconstructions.png")
        found.pop("warnings.log", None)
        assert found == contents(whole)
        for left in ends.glob("threads_*"):
            assert "gloo" not in left.read_text()
            left.unlink()


def test_every_process_makes_its_share(config, whole, copy, monkeypatch) -> None:
    """The second of two makes the second and fourth of five shards, and lists none."""
    manifest = json.loads((copy / "latents.json").read_text())
    for shard in copy.glob("shard_*"):
        shard.unlink()
    (copy / "latents.json").write_text(json.dumps({**manifest, "shards": []}))
    monkeypatch.setattr(module_under_test, "gather_object", lambda own: own)
    second = SimpleNamespace(num_processes=2, process_index=1, is_main_process=False)
    autoencoder = load_autoencoder(config.autoencoder)
    module_under_test._encode_missing(copy, manifest, load_dataset(config), autoencoder, second, None)
    assert sorted(file.name for file in copy.glob("shard_*")) == ["shard_00001.safetensors", "shard_00003.safetensors"]
    assert (copy / "shard_00003.safetensors").read_bytes() == (whole / "shard_00003.safetensors").read_bytes()
    assert json.loads((copy / "latents.json").read_text())["shards"] == []


def test_killed_before_anything_was_written_it_begins_again(config, whole, tmp_path, contents) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / f".latents.json.partial-{2**22 + 1}").write_text("{")  # no process has such a number
    encode(config, folder)
    assert contents(folder) == {**contents(whole), ".lock": b""}


def test_the_command_that_goes_on_is_the_one_that_began(config, copy, capsys) -> None:
    """As advised for a shard that is cut short, with every option that would else be refused."""
    (copy / "shard_00002.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="resumes the encoding") as refused:
        load(copy)
    command = re.search(r"kdiff (encode .*) resumes the encoding", str(refused.value))
    with pytest.warns(UserWarning, match="the shard is encoded again"):
        assert main(shlex.split(command[1])) == 0
    assert "70 latents" in capsys.readouterr().out
    load(copy)


def test_several_processes_wait_for_each_other_as_long_as_a_shard_takes(monkeypatch) -> None:
    """Ten minutes, or thirty, are what torch gives them else."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(processes, "PartialState", lambda **options: given.update(options))
    processes.join_processes()
    assert given["timeout"] >= datetime.timedelta(hours=12)


# Refused, with nothing changed


def changed_images(images: Path, tmp_path: Path) -> str:
    with np.load(images, allow_pickle=False) as file:
        x, y = file["x"].copy(), file["y"]
    x[5, 0, 0, 0] ^= 1
    np.savez(tmp_path / "images.npz", x=x, y=y)
    return str(tmp_path / "images.npz")


def changed_autoencoder(autoencoder_folder: Path, tmp_path: Path) -> str:
    folder = Path(shutil.copytree(autoencoder_folder, tmp_path / "other"))
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["encoder.conv_in.bias"][0] += 1e-6
    save_file(weights, file, {"format": "pt"})
    return str(folder)


def test_it_does_not_go_on_with_anything_else(config, images, autoencoder_folder, copy, tmp_path, contents) -> None:
    before = contents(copy)
    other = changed_autoencoder(autoencoder_folder, tmp_path)
    for changes, message in (
        (
            {"data": changed_images(images, tmp_path)},
            r"the images .* differ from the images that .*copy was begun with .*: fingerprint",
        ),
        ({"data": f"{images}(normalise=range, value_range=[0, 510])"}, r"normalisation .* 255\.0.* was .* 127\.5"),
        ({"autoencoder": other}, r"copy was begun with another autoencoder, .* \(identity"),
        ({"flip": False}, r"copy was begun with flip True; use the same, or choose another folder"),
        ({"posterior": False, "dtype": "float16"}, r"begun with posterior True, dtype float32"),
        ({"shard_size": 17}, r"begun with shard_size 16"),
    ):
        with pytest.raises(ValueError, match=message):
            encode(replace(config, **changes), copy)
    assert contents(copy) == before


def test_an_autoencoder_that_has_moved_is_the_same(config, copy, autoencoder_folder, tmp_path) -> None:
    fingerprint = load(copy).fingerprint
    moved = shutil.copytree(autoencoder_folder, tmp_path / "moved")
    encode(replace(config, autoencoder=str(moved)), copy)
    assert load(copy).about["latents"]["autoencoder"]["source"] == str(moved)
    assert load(copy).fingerprint == fingerprint


def test_images_are_named_so_that_they_are_found_from_anywhere(config, images, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(images.parent)
    for folder, given in (("values", "('x')"), ("latents", "(flip=true)")):
        manifest, _ = encode(replace(config, data=f"{images.name}{given}"), tmp_path / folder)
        assert parse(manifest["source"]["data"]) == parse(f"{images}{given}")
    assert manifest["source"]["data"] == f"{images.absolute()}(flip=True)"


def test_a_folder_beside_does_not_rename_named_data(config, images, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(SOURCES, "pictures", lambda: load(str(images)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    manifest, _ = encode(replace(config, data="pictures"), tmp_path / "latents")
    assert manifest["source"]["data"] == "pictures"


def test_what_latents_json_lacks_is_said(config, copy) -> None:
    manifest = json.loads((copy / "latents.json").read_text())
    for missing in ("statistics", "autoencoder"):
        (copy / "latents.json").write_text(json.dumps({name: value for name, value in manifest.items() if name != missing}))
        for use in (lambda: load(copy), lambda: encode(config, copy)):
            with pytest.raises(ValueError, match=rf"latents.json is damaged: {missing} is missing; restore it"):
                use()


def test_a_folder_of_something_else(config, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files that are not latents"):
        encode(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digits", r"encodes images of 3 channels.* found \(1, 8, 8\)"),
        ("spiral", r"autoencoders take images \(C, H, W\) with a known range of values"),
    ],
)
def test_data_that_cannot_be_encoded(config, tmp_path, data, message) -> None:
    with pytest.raises(ValueError, match=message):
        encode(replace(config, data=data), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_latents_are_no_images(config, whole, tmp_path) -> None:
    with pytest.raises(ValueError, match="normalised by 'channels'; autoencoders take images"):
        encode(replace(config, data=str(whole)), tmp_path / "a")


def test_latents_that_are_not_finite(config, tmp_path, monkeypatch) -> None:
    """Or that float16 cannot hold."""
    original = Autoencoder.encode
    monkeypatch.setattr(Autoencoder, "encode", lambda self, x: tuple(1e6 * value for value in original(self, x)))
    with pytest.raises(ValueError, match="the mean of image 0 is not finite in float16; check the image, or use float32"):
        encode(replace(config, dtype="float16"), tmp_path / "a")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "which autoencoder"),
        ({"autoencoder": "a", "shard_size": 0}, "shard_size is 0"),
        ({"autoencoder": "a", "dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_configurations(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        EncodeConfig(**values)


def test_a_decoder_that_is_gone(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no autoencoder at .*gone.*if it has moved, run kdiff encode again"):
        decoder(str(tmp_path / "gone"), "i")
