"""Autoencoders from every form they come in: the same network gives the same numbers and identity, and others are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from kdiff.latent import Autoencoder, autoencoder, load_autoencoder, small_autoencoder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(autoencoder_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(autoencoder_folder, tmp_path / "copy"))


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_it_computes_what_diffusers_does(autoencoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = AutoencoderKL.from_pretrained(autoencoder_folder)
    found = load_autoencoder(autoencoder_folder)
    x = torch.rand(5, 3, 8, 12) * 2 - 1
    monkeypatch.setattr(autoencoder, "AT_ONCE", 2 * 8 * 12)  # two images at a time
    mean, std = found.encode(x)
    with torch.no_grad():
        posterior = module.encode(x).latent_dist
        torch.testing.assert_close(mean, posterior.mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(std, posterior.std, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.decode(mean), module.decode(mean).sample.clamp(-1, 1), atol=1e-6, rtol=1e-5)
    assert tuple(mean.shape[1:]) == found.latent_shape((3, 8, 12)) == (4, 4, 6)
    assert (found.decode(1000 * mean).abs() <= 1).all()
    described = found.describe()
    assert (described["class"], described["scaling"], described["shift"]) == ("AutoencoderKL", 0.25, 0.5)
    assert described["source"] == str(autoencoder_folder)


@pytest.mark.parametrize("inside", ["vae", "autoencoder"])
def test_a_pipeline_or_run_folder(autoencoder_folder: Path, tmp_path: Path, inside: str) -> None:
    shutil.copytree(autoencoder_folder, tmp_path / "whole" / inside)
    assert load_autoencoder(tmp_path / "whole").identity == load_autoencoder(autoencoder_folder).identity


def test_one_network_in_three_forms_has_one_identity(make_attended, to_ldm, tmp_path: Path) -> None:
    """diffusers' folder; a .pt in the layout of latent diffusion, in half a training checkpoint; the same as safetensors."""
    module = make_attended([False, True], block_out_channels=(32, 64)).float()
    module.save_pretrained(tmp_path / "folder")
    state = to_ldm(module.state_dict())
    torch.save({"state_dict": {**state, "loss.logvar": torch.zeros(())}, "epoch": 3}, tmp_path / "a.pt")
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "a.safetensors")
    x = torch.rand(2, 3, 8, 8)
    folder, *others = (load_autoencoder(tmp_path / name) for name in ("folder", "a.pt", "a.safetensors"))
    for other in others:
        assert other.identity == folder.identity
        assert torch.equal(other.encode(x)[0], folder.encode(x)[0])


def test_the_identity_sees_what_changes_the_latents(autoencoder_folder: Path, copy: Path) -> None:
    identity = load_autoencoder(autoencoder_folder).identity
    set_config(copy, scaling_factor=3.0, sample_size=99, _name_or_path="x")
    assert load_autoencoder(copy).identity == identity  # it does not change them
    set_config(copy, norm_num_groups=2)
    assert load_autoencoder(copy).identity != identity
    set_config(copy, norm_num_groups=4)
    weights = load_file(copy / WEIGHTS)
    weights["decoder.conv_out.bias"][1] += 1e-6
    save_file(weights, copy / WEIGHTS, {"format": "pt"})
    changed = load_autoencoder(copy).identity
    assert changed != identity
    with pytest.raises(
        ValueError, match=rf"is not the one that the latents were made with: its identity is {changed}, expected"
    ):
        load_autoencoder(copy, identity)


def test_weights_in_half_precision_are_read(copy: Path) -> None:
    weights = {key: value.half() for key, value in load_file(copy / WEIGHTS).items()}
    save_file(weights, copy / WEIGHTS, {"format": "pt"})
    mean, _ = load_autoencoder(copy).encode(torch.rand(1, 3, 4, 4))
    assert mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 8, 8), r"encodes images of 3 channels, shaped \(3, H, W\); found \(1, 8, 8\)"),
        ((64,), r"found \(64,\)"),
        ((3, 8, 9), r"divides sides by 2, .* found 8×9; resize the images .*--data.size 8"),
    ],
)
def test_images_that_do_not_fit(autoencoder_folder: Path, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_autoencoder(autoencoder_folder).latent_shape(shape)


def test_damaged_or_other_folders(copy: Path, tmp_path: Path) -> None:
    whole = load_file(copy / WEIGHTS)
    save_file({key: value for key, value in whole.items() if "quant_conv" not in key}, copy / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit its config.json: 4 do not match, e.g. (post_)?quant_conv"):
        load_autoencoder(copy)
    save_file({**whole, "more": torch.ones(1)}, copy / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 do not match, e.g. more"):
        load_autoencoder(copy)
    save_file(whole, copy / WEIGHTS, {"format": "pt"})
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"no autoencoder could be read from .*copy"):
        load_autoencoder(copy)
    (copy / WEIGHTS).unlink()
    torch.save(whole, copy / "diffusion_pytorch_model.bin")  # only a pickle: not read
    with pytest.raises(ValueError, match=r"no autoencoder could be read from .*copy"):
        load_autoencoder(copy)
    set_config(copy, _class_name="VQModel")
    with pytest.raises(ValueError, match="is of class VQModel; expected one of AutoencoderKL, AutoencoderKLFlux2, "):
        load_autoencoder(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no autoencoder in .*empty: expected a config.json"):
        load_autoencoder(tmp_path / "empty")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a.bin is no file of weights; expected a name that ends in .safetensors, .pth"):
        load_autoencoder(tmp_path / "a.bin")
    (tmp_path / "a.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(ValueError, match=r"a.safetensors cannot be read as weights"):
        load_autoencoder(tmp_path / "a.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"b.safetensors: it holds no autoencoder in the layout of latent diffusion"):
        load_autoencoder(tmp_path / "b.safetensors")


@pytest.mark.parametrize("source", ["nothing", "./no/thing", "/no/thing/here/at/all", "a/b/c/d"])
def test_nothing_there(source: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"no autoencoder at {source}: no file, no folder, and no name like owner/name"):
        load_autoencoder(source)


@pytest.mark.parametrize(
    ("source", "place", "options"),
    [
        ("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse", {}),
        ("black-forest-labs/FLUX.1-dev/vae", "black-forest-labs/FLUX.1-dev", {"subfolder": "vae"}),
    ],
)
def test_names_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, place: str, options: dict) -> None:
    asked = []

    def pretrained(where: str, **found: Any) -> torch.nn.Module:
        asked.append((where, found))
        return small_autoencoder(3, [8], 2)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(autoencoder, "pretrained", pretrained)
    assert load_autoencoder(source).source == source
    assert asked == [(place, options)]


def test_a_hub_that_is_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: Any, **__: Any) -> None:
        try:
            raise LocalEntryNotFoundError("no connection")
        except LocalEntryNotFoundError as error:
            raise OSError("owner/name does not appear to have a file named config.json") from error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoencoderKL, "load_config", unreachable)
    with pytest.raises(ValueError, match=r"the hub cannot be reached: .*hf download owner/name --local-dir FOLDER"):
        load_autoencoder("owner/name")


def test_without_diffusers_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (lambda: load_autoencoder(tmp_path), lambda: small_autoencoder(3, [8], 2)):
        with pytest.raises(ValueError, match=r"pip install 'kdiff\[latent\]' installs it"):
            call()


def test_small_autoencoders() -> None:
    for channels, groups in (([16, 32, 64], 4), ([8], 2), ([6, 10], 1), ([256, 256], 32)):
        found = Autoencoder(small_autoencoder(1, channels, 3), "new")
        assert found.module.config.norm_num_groups == groups
        assert found.latent_shape((1, 32, 32)) == (3, 32 // found.factor, 32 // found.factor)
    for channels, latent in (([], 4), ([8, 0], 4), ([8], 0)):
        with pytest.raises(ValueError, match="expected whole numbers of at least 1"):
            small_autoencoder(1, channels, latent)


@pytest.mark.parametrize("key", ["block_out_channels", "latent_channels", "down_block_types", "norm_num_groups", "in_channels"])
def test_a_damaged_configuration_is_refused_in_one_line(key, autoencoder_folder, tmp_path) -> None:
    """diffusers raises errors of many kinds for it."""
    folder = Path(shutil.copytree(autoencoder_folder, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    for wrong in (None, "text", -7, [], {}):
        (folder / "config.json").write_text(json.dumps({**config, key: wrong}))
        with pytest.raises(ValueError, match="copy") as caught:
            load_autoencoder(folder)
        assert "\n" not in str(caught.value)
