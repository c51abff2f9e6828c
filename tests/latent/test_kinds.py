"""Every class of autoencoders: the numbers of diffusers and its pipelines; every weight is used; what does not fit is said."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdiff.config.autoencoding import EncodeConfig
from kdiff.data import load
from kdiff.data.latents import read_manifest
from kdiff.latent import Autoencoder, load_autoencoder
from kdiff.latent.kinds import KINDS, from_patches, into_patches
from kdiff.run.build import load_dataset
from kdiff.training.encoding import encode

NAMES = [*KINDS, "AutoencoderKLWan22"]
DETERMINISTIC = ["AutoencoderDC", "AutoencoderTiny"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def own(folder: Path) -> Any:
    """The module as diffusers alone reads it."""
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    return getattr(diffusers, name).from_pretrained(folder).eval()


def encoded(module: Any, x: Tensor) -> Tensor:
    """The latent by the names that the class gives to it."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1) if "Image21" in type(module).__name__ else x  # opaque
    video = "Wan" in type(module).__name__ or "Qwen" in type(module).__name__
    output = module.encode(x[:, :, None] if video else x)
    if isinstance(module, diffusers.AutoencoderDC):
        return output.latent
    return output.latents if isinstance(module, diffusers.AutoencoderTiny) else output.latent_dist.mode()


def decoded(module: Any, z: Tensor) -> Tensor:
    images = module.decode(z, return_dict=False)[0]
    return (images[:, :3, 0] if images.ndim == 5 else images).clamp(-1, 1)


def as_the_pipeline(module: Any, x: Tensor) -> Tensor:
    """What the transformer of the official pipeline sees of images: by the pipeline's own method where it has one."""
    z, config, name = encoded(module, x), module.config, type(module).__name__
    itself = SimpleNamespace(vae=module, latent_channels=config.get("z_dim"))
    if name == "AutoencoderKLFlux2":
        itself._patchify_latents = diffusers.Flux2Pipeline._patchify_latents
        return diffusers.Flux2Pipeline._encode_vae_image(itself, x, None)
    if name == "AutoencoderKLQwenImage":
        return diffusers.QwenImageEditPipeline._encode_vae_image(itself, x[:, :, None], None)[:, :, 0]
    if name == "AutoencoderKLQwenImage21":
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        return diffusers.QwenImage21Pipeline._encode_vae_image(itself, x[:, :, None], None)[:, :, 0]
    if name == "AutoencoderKLWan":
        mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
        return ((z - mean) / std)[:, :, 0]
    return (z - config.get("shift_factor", 0.0)) * config.scaling_factor


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 colour images 16×24."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (40, 3, 16, 24), np.uint8))
    return path


@pytest.mark.filterwarnings("ignore:.*root mean square of the latents")
@pytest.mark.parametrize("name", NAMES)
def test_from_images_over_shards_to_images_as_in_diffusers(name, small_kinds, images, tmp_path) -> None:
    """`normalise: scaling` gives what the transformer of the official pipeline sees; decoded, it is what diffusers decodes."""
    pytest.importorskip("transformers")
    folder = small_kinds(name)
    config = EncodeConfig(str(images), str(folder), posterior=name not in DETERMINISTIC, shard_size=16)
    manifest, _ = encode(config, tmp_path / "latents")
    latents, module, x = load(tmp_path / "latents", normalise="scaling"), own(folder), load_dataset(config).x[:]
    with torch.no_grad():
        torch.testing.assert_close(latents.x[:], as_the_pipeline(module, x), rtol=1e-4, atol=1e-5)
        expected = decoded(module, encoded(module, x))
    found = load_autoencoder(folder).decode(latents.normalisation.undo(latents.x[:]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.05  # images that differ, and not all clamped
    assert latents.x[:].std() > 0.05
    autoencoder = manifest["autoencoder"]
    assert autoencoder["class"] == name.removesuffix("22")
    assert autoencoder["factor"] == (4 if name in ("AutoencoderKLFlux2", "AutoencoderKLWan22") else 2)
    assert autoencoder["patch"] == (2 if name == "AutoencoderKLFlux2" else 1)
    assert [autoencoder["channels"], 16 // autoencoder["factor"], 24 // autoencoder["factor"]] == manifest["shape"]
    assert manifest["shape"] == list(latents.shape)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETERMINISTIC])
def test_the_posterior_is_that_of_diffusers(name, small_kinds) -> None:
    """Its deviation goes through patches and frames as its mean does: draws agree."""
    folder = small_kinds(name)
    x = torch.rand(2, 3, 8, 12) * 2 - 1
    mean, std = load_autoencoder(folder).encode(x)
    module = own(folder)
    video = encoded(module, x).ndim == 5
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1) if "Image21" in name else x
    with torch.no_grad():
        posterior = module.encode(x[:, :, None] if video else x).latent_dist
    expected = posterior.std[:, :, 0] if posterior.std.ndim == 5 else posterior.std
    if name == "AutoencoderKLFlux2":
        expected = diffusers.Flux2Pipeline._patchify_latents(expected)
    torch.testing.assert_close(std, expected, rtol=1e-4, atol=1e-6)
    assert std.shape == mean.shape
    assert std.std() > 0


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_what_has_no_posterior_refuses_one(name, small_kinds, images, tmp_path) -> None:
    folder = small_kinds(name)
    with pytest.raises(ValueError, match=rf"posterior is true, .* is an {name}, .*; leave --posterior out$"):
        encode(EncodeConfig(str(images), str(folder), posterior=True), tmp_path / "latents")
    assert not (tmp_path / "latents").exists()
    assert not load_autoencoder(folder).encode(torch.rand(2, 3, 8, 8))[1].any()
    encode(EncodeConfig(str(images), str(folder)), tmp_path / "latents")
    assert not read_manifest(tmp_path / "latents")["autoencoder"]["posterior"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_wrong_or_partial_are_refused_by_name(name, small_kinds, tmp_path) -> None:
    copy = Path(shutil.copytree(small_kinds(name), tmp_path / "copy"))
    whole = load_file(copy / WEIGHTS)
    first, last = sorted(whole)[0], sorted(whole)[-1]
    others = ["bn.running_var"] if name == "AutoencoderKLFlux2" else []
    for lost in (first, last, *others):
        save_file({key: value for key, value in whole.items() if key != lost}, copy / WEIGHTS, {"format": "pt"})
        with pytest.raises(ValueError, match=rf"copy do not fit its config.json: 1 do not match, e.g. {lost}$"):
            load_autoencoder(copy)
    save_file({**whole, "decoder.more.weight": torch.ones(1)}, copy / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 do not match, e.g. decoder.more.weight$"):
        load_autoencoder(copy)
    save_file({**whole, first: torch.ones(*whole[first].shape, 2)}, copy / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"copy.*{first}"):
        load_autoencoder(copy)


@pytest.mark.parametrize("name", NAMES)
def test_images_of_other_sizes_are_refused_with_what_to_type(name, small_kinds) -> None:
    found = load_autoencoder(small_kinds(name))
    assert found.latent_shape((3, 16, 24)) == (found.latent_channels, 16 // found.factor, 24 // found.factor)
    patches = r" \(in patches of 2×2 latents\)" if found.patch > 1 else ""
    with pytest.raises(ValueError, match=rf"divides sides by {found.factor}{patches}, .* found 15×24; .* --data.size 16\)"):
        found.latent_shape((3, 15, 24))
    with pytest.raises(ValueError, match=r"encodes images of 3 channels, .* found \(1, 16, 24\)"):
        found.latent_shape((1, 16, 24))


def test_every_kind_is_another_autoencoder(small_kinds) -> None:
    """The identity covers the class and what the weights do not show, but not the scale, nor how a list is written."""
    assert len({load_autoencoder(small_kinds(name)).identity for name in NAMES}) == len(NAMES)
    module = own(small_kinds("AutoencoderKLFlux2"))
    identity = Autoencoder(module, "a").identity
    module.bn.running_mean += 1
    module.register_to_config(patch_size=(2, 2), batch_norm_eps=0.5)
    assert Autoencoder(module, "a").identity == identity
    module.register_to_config(act_fn="relu")
    assert Autoencoder(module, "a").identity != identity


def test_the_statistics_of_flux2_are_its_batch_norm(small_kinds) -> None:
    """In float32, and with its own epsilon."""
    module = own(small_kinds("AutoencoderKLFlux2"))
    facts = Autoencoder(module, "a").describe()
    z = torch.randn(2, 12, 3, 5)
    mean, std = (torch.tensor(facts[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close((z - mean) / std, module.bn.eval()(z))
    module.bn.running_var[3] = -1.0
    with pytest.raises(ValueError, match="the autoencoder a has latents_mean"):
        Autoencoder(module, "a")


def test_patches_are_those_of_the_pipeline() -> None:
    z = torch.randn(2, 3, 4, 6)
    assert torch.equal(into_patches(z, 2), diffusers.Flux2Pipeline._patchify_latents(z))
    assert torch.equal(from_patches(into_patches(z, 2), 2), z)
    assert torch.equal(into_patches(z, 1), z)


def broken(folder: Path, target: Path, **values: Any) -> Path:
    copy = Path(shutil.copytree(folder, target))
    (copy / "config.json").write_text(json.dumps({**json.loads((copy / "config.json").read_text()), **values}))
    return copy


def test_what_decodes_to_other_channels_is_refused() -> None:
    module = diffusers.AutoencoderKL(1, 3, block_out_channels=(8,), norm_num_groups=4)
    with pytest.raises(ValueError, match="cannot be used: it encodes images of 1 channels and decodes to 3; expected as many"):
        Autoencoder(module, "a")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "AutoencoderTiny",
            {"upsampling_scaling_factor": 4},
            "encoder divides sides by 2 and its decoder multiplies them by 4",
        ),
        ("AutoencoderTiny", {"upsampling_scaling_factor": None}, "cannot be used"),
        ("AutoencoderTiny", {"shift_factor": "x"}, "shift_factor 'x'; expected a number"),
        ("AutoencoderDC", {"scaling_factor": -1}, "scaling_factor -1; expected a positive number"),
        ("AutoencoderKLFlux2", {"patch_size": [1, 4]}, r"patch_size is \[1, 4\]; expected two equal numbers"),
        ("AutoencoderKLWan", {"latents_mean": [0.0]}, "expected 3 numbers each"),
        ("AutoencoderKLQwenImage", {"latents_std": None}, "expected 3 numbers each"),
        ("AutoencoderDC", {"_class_name": "AutoencoderKLNew"}, "is of class AutoencoderKLNew; expected one of AutoencoderKL, "),
    ],
)
def test_a_configuration_that_cannot_be_used(name, values, message, small_kinds, tmp_path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_autoencoder(broken(small_kinds(name), tmp_path / "copy", **values))
    assert "\n" not in str(caught.value)


def test_without_a_scale_there_is_none(small_kinds, tmp_path) -> None:
    """A Wan whose configuration says null: latents can be encoded, and not be scaled by it."""
    copy = broken(small_kinds("AutoencoderKLWan"), tmp_path / "copy", latents_mean=None, latents_std=None)
    assert load_autoencoder(copy).describe()["scaling"] is None


def test_an_older_diffusers_says_so(small_kinds, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(KINDS, "AutoencoderKLNew", KINDS["AutoencoderKL"])
    copy = broken(small_kinds("AutoencoderKL"), tmp_path / "copy", _class_name="AutoencoderKLNew")
    with pytest.raises(ValueError, match=r"is of class AutoencoderKLNew, which diffusers .* does not have; pip install -U"):
        load_autoencoder(copy)


def test_no_warning_is_given_for_what_diffusers_itself_writes(small_kinds, recwarn) -> None:
    """AutoencoderTiny stores block_out_channels, which its constructor does not take."""
    for name in NAMES:
        load_autoencoder(small_kinds(name))
    assert [str(each.message) for each in recwarn if "does not use" in str(each.message)] == []


def test_other_classes_are_refused() -> None:
    make: Callable[[], nn.Module] = lambda: nn.Linear(1, 1)  # noqa: E731
    with pytest.raises(ValueError, match="of class Linear; expected one of AutoencoderKL, AutoencoderKLFlux2, AutoencoderDC, "):
        Autoencoder(make(), "a")


# The configurations that differ from the defaults of their classes.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Stable Diffusion": ("AutoencoderKL", {"block_out_channels": (128, 256, 512, 512)}),
    "FLUX.1": ("AutoencoderKL", {"block_out_channels": (128, 256, 512, 512), "latent_channels": 16}),
    "VA-VAE f16d32": ("AutoencoderKL", {"block_out_channels": (128, 128, 256, 256, 512), "latent_channels": 32}),
    "Wan 2.2": ("AutoencoderKLWan", {"z_dim": 48, "patch_size": 2, "in_channels": 12}),
}


def test_the_shapes_in_the_documentation() -> None:
    """Those of the classes as diffusers has them by default, and of the configurations above."""
    page = (Path(__file__).parents[2] / "docs" / "howto" / "latents.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:`(\w+)`)? ?\| ([^|]+) \| (\d+)×(\d+)×(\d+) \|", page, re.MULTILINE)
    rows = [row for row in rows if row[1].strip() and not row[1].strip()[0].isdigit()]
    assert {name for name, *_ in rows if name} == set(KINDS)
    for found, user, *shape in rows:
        name, changes = OTHERS.get(user, (found, {}))
        defaults = inspect.signature(getattr(diffusers, name).__init__).parameters
        config = {key: value.default for key, value in defaults.items()} | changes
        kind = KINDS[name]
        side = 256 // (kind.side(config) * kind.patch(config))
        assert [kind.latent_channels(config) * kind.patch(config) ** 2, side, side] == [int(each) for each in shape], user
        assert kind.image_channels(config) == 3
