"""The layout of latent diffusion: every weight in its place, judged by its own arithmetic, and the published architecture."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor
from torch.nn import functional as F

from kdiff.latent import Autoencoder, load_autoencoder
from kdiff.latent.kinds import KINDS
from kdiff.latent.ldm import from_ldm, ldm_config

VA_VAE = {"block_out_channels": (128, 128, 256, 256, 512), "latent_channels": 32, "layers_per_block": 2}
SMALL = {"block_out_channels": (32, 32, 64), "latent_channels": 6, "layers_per_block": 2}


class Reference:
    """The forward pass that latent diffusion defines on these names, written from its definition."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps=1e-6)

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), padding=1)
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), padding=1)
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.state else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        """One head over all positions; none if there is none of this name."""
        if f"{name}.q.weight" not in self.state:
            return x
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * x.shape[1] ** -0.5, dim=2)
        out = torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape)
        return x + self.conv(f"{name}.proj_out", out)

    def middle(self, name: str, x: Tensor) -> Tensor:
        return self.block(f"{name}.block_2", self.attention(f"{name}.attn_1", self.block(f"{name}.block_1", x)))

    def encode(self, x: Tensor, levels: int, blocks: int) -> Tensor:
        """Mean and log-variance, one behind the other."""
        h = self.conv("encoder.conv_in", x, padding=1)
        for level in range(levels):
            for i in range(blocks):
                h = self.attention(f"encoder.down.{level}.attn.{i}", self.block(f"encoder.down.{level}.block.{i}", h))
            if level < levels - 1:
                h = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
        h = F.silu(self.norm("encoder.norm_out", self.middle("encoder.mid", h)))
        return self.conv("quant_conv", self.conv("encoder.conv_out", h, padding=1))

    def decode(self, latent: Tensor, levels: int, blocks: int) -> Tensor:
        h = self.conv("decoder.conv_in", self.conv("post_quant_conv", latent), padding=1)
        h = self.middle("decoder.mid", h)
        for level in reversed(range(levels)):
            for i in range(blocks + 1):
                h = self.attention(f"decoder.up.{level}.attn.{i}", self.block(f"decoder.up.{level}.block.{i}", h))
            if level:
                h = self.conv(f"decoder.up.{level}.upsample.conv", F.interpolate(h, scale_factor=2.0), padding=1)
        return self.conv("decoder.conv_out", F.silu(self.norm("decoder.norm_out", h)), padding=1)


@pytest.mark.parametrize("levels", [[False, False, True], [True, False, False], [False, False, False]])
def test_the_loaded_network_computes_what_the_layout_defines(make_attended, to_ldm, levels) -> None:
    """Encoder and decoder, with attention where VA-VAE has it (the lowest level), elsewhere, and in the middle alone."""
    state = to_ldm(make_attended(levels, **SMALL).state_dict())
    module = from_ldm(state).eval()
    x, reference = torch.randn(2, 3, 16, 24), Reference(state)
    with torch.no_grad():
        posterior = module.encode(x).latent_dist
        expected = reference.encode(x, levels=3, blocks=2)
        torch.testing.assert_close(torch.cat([posterior.mean, posterior.logvar], 1), expected, atol=1e-4, rtol=1e-4)
        latent = torch.randn(2, 6, 4, 6)
        decoded = reference.decode(latent, levels=3, blocks=2)
        torch.testing.assert_close(module.decode(latent).sample, decoded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "module.", "ema_model.", "model.autoencoder."])
def test_round_trip_with_a_prefix_and_the_rest_of_a_checkpoint(make_attended, to_ldm, prefix) -> None:
    module = make_attended([False, True], block_out_channels=(32, 64))
    state = {prefix + key: value for key, value in to_ldm(module.state_dict()).items()}
    others = {"loss.discriminator.weight": torch.ones(2), "foundation_model.encoder.conv_in.weight": torch.ones(2)}
    loaded = from_ldm({**others, **state})
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert Autoencoder(loaded, "a").identity == Autoencoder(module, "b").identity


def test_the_architecture_of_va_vae_is_read_off_its_keys(make_attended, to_ldm) -> None:
    """f16d32: five levels of 128 · (1, 1, 2, 2, 4) channels, attention at the lowest; without memory for the weights."""
    with torch.device("meta"):
        module = make_attended([False] * 4 + [True], **VA_VAE)
    state = to_ldm(module.state_dict())
    assert {"encoder.down.4.attn.1.proj_out.weight", "decoder.up.4.attn.2.q.weight", "quant_conv.weight"} <= state.keys()
    assert not any(f"down.{level}.attn" in key for key in state for level in range(4))
    assert state["quant_conv.weight"].shape == (64, 64, 1, 1)
    config = ldm_config(state)
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in VA_VAE.items()}
    assert {key: config[key] for key in expected} == expected
    with torch.device("meta"):
        again = make_attended([False] * 4 + [True], **{key: config[key] for key in expected})
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in module.state_dict().items()
    }
    assert config["down_block_types"] == list(module.config.down_block_types)
    assert config["up_block_types"] == list(module.config.up_block_types)
    assert KINDS["AutoencoderKL"].side(module.config) == 16


def test_without_quant_convolutions(make_attended, to_ldm) -> None:
    """As FLUX's own file has it."""
    options = {"use_quant_conv": False, "use_post_quant_conv": False, "block_out_channels": (32, 32), "latent_channels": 16}
    module = make_attended([False, False], **options)
    x = torch.randn(1, 3, 8, 8)
    loaded = from_ldm(to_ldm(module.state_dict())).eval()
    assert torch.equal(loaded.encode(x).latent_dist.mean, module.encode(x).latent_dist.mean)


FLUX2 = {"block_out_channels": (32, 32), "latent_channels": 4}


@pytest.fixture
def flux2(make_attended, to_ldm) -> dict[str, Tensor]:
    """The names of FLUX.2's own file: quant convolutions within encoder and decoder, and the statistics of patches of 2×2."""
    state = to_ldm(make_attended([False, False], **FLUX2).state_dict())
    moved = {"quant_conv.": "encoder.quant_conv.", "post_quant_conv.": "decoder.post_quant_conv."}
    state = {
        next((new + key.removeprefix(old) for old, new in moved.items() if key.startswith(old)), key): state[key]
        for key in state
    }
    statistics = {"running_mean": torch.randn(16), "running_var": torch.rand(16) + 0.5, "num_batches_tracked": torch.tensor(7)}
    return state | {f"bn.{name}": value for name, value in statistics.items()}


def test_flux2s_own_file_keeps_its_quant_convolutions_and_its_scale(flux2) -> None:
    module = from_ldm(flux2).eval()
    moved = {key.removeprefix("encoder.").removeprefix("decoder.") if "quant_conv" in key else key: flux2[key] for key in flux2}
    x, latent = torch.randn(1, 3, 8, 8), torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        expected = Reference(moved).encode(x, levels=2, blocks=1)
        torch.testing.assert_close(module.encode(x).latent_dist.parameters, expected, atol=1e-4, rtol=1e-4)
        patched = expected[:, :4].unflatten(3, (2, 2)).unflatten(2, (2, 2)).permute(0, 1, 3, 5, 2, 4).reshape(1, 16, 2, 2)
        torch.testing.assert_close(Autoencoder(module, "a").encode(x)[0], patched, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            module.decode(latent).sample, Reference(moved).decode(latent, levels=2, blocks=1), atol=1e-4, rtol=1e-4
        )
    facts = Autoencoder(module, "a").describe()
    assert (facts["class"], facts["scaling"], facts["shift"]) == ("AutoencoderKLFlux2", 1.0, 0.0)
    assert (facts["factor"], facts["channels"], facts["patch"]) == (4, 16, 2)
    assert facts["mean"] == flux2["bn.running_mean"].tolist()
    assert facts["std"] == pytest.approx((flux2["bn.running_var"] + 1e-4).sqrt().tolist())


@pytest.mark.parametrize(
    "name",
    [
        "encoder.more.weight",
        "decoder.up.0.block.7.conv1.weight",
        "encoder.down.1.downsample.conv.weight",
        "encoder.mid.attn_2.q.weight",
        "encoder.down.99.block.0.conv1.weight",
        "quant_conv.weight",  # beside encoder.quant_conv.weight
        "post_quant_conv.scale",
        "bn.weight",
        "scale.weight",
    ],
)
def test_a_weight_without_a_place_is_refused_by_name(flux2, name) -> None:
    with pytest.raises(ValueError, match=rf"1 not in this network \({name}"):
        from_ldm({**flux2, name: torch.ones(8, 8, 1, 1)})


def test_flux2s_own_file_is_the_same_autoencoder_as_that_of_diffusers(to_ldm, tmp_path) -> None:
    """Also with a decoder of other widths, and without the counter of batches; without half of the statistics it is refused."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    module = AutoencoderKLFlux2(**FLUX2, **blocks, decoder_block_out_channels=(64, 32), layers_per_block=1)
    module.bn.running_mean.normal_()
    module.bn.running_var.uniform_(0.5, 2)
    module.save_pretrained(tmp_path)
    state = to_ldm(module.state_dict())
    del state["bn.num_batches_tracked"]
    folder, file = load_autoencoder(tmp_path), Autoencoder(from_ldm(state), "file")
    assert {**file.describe(), "source": None} == {**folder.describe(), "source": None}
    z = torch.randn(1, 16, 2, 2)
    assert torch.equal(file.decode(z), folder.decode(z))
    with pytest.raises(ValueError, match=r"1 missing \(bn.running_var\)"):
        from_ldm({key: value for key, value in state.items() if key != "bn.running_var"})
    with pytest.raises(ValueError, match=r"2 of another shape \(bn.running_mean \(17,\) instead of \(16,\)"):
        from_ldm({**state, "bn.running_mean": torch.ones(17), "bn.running_var": torch.ones(17)})


def test_the_scale_of_a_file_without_one_is_not_known(make_attended, to_ldm) -> None:
    state = to_ldm(make_attended([False, False], block_out_channels=(32, 32)).state_dict())
    assert Autoencoder(from_ldm(state), "a").describe()["scaling"] is None


def test_what_is_none_is_refused(make_attended, to_ldm) -> None:
    state = to_ldm(make_attended([False, False], block_out_channels=(32, 32)).state_dict())
    levels = {key: value for key, value in state.items() if not key.startswith("encoder.down.0.")}
    for other, lacking in (
        ({"model.layer.weight": torch.ones(2)}, "encoder.down.0"),
        ({}, "encoder.down.0"),
        (levels, "encoder.down.0"),
        ({key: value for key, value in state.items() if "conv_in" not in key}, "encoder.conv_in.weight"),
    ):
        with pytest.raises(ValueError, match=rf"no autoencoder in the layout of latent diffusion \(no {lacking}\)"):
            from_ldm(other)
    with pytest.raises(ValueError, match=r"another network: 1 missing \(encoder.mid_block.resnets.0.conv1.bias\)"):
        from_ldm({key: value for key, value in state.items() if key != "encoder.mid.block_1.conv1.bias"})
    with pytest.raises(ValueError, match=r"in the layout of diffusers, .*name the folder"):
        from_ldm({"encoder.down_blocks.0.resnets.0.conv1.weight": torch.ones(1), "encoder.conv_in.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="other than four dimensions"):
        from_ldm({**state, "encoder.conv_in.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="its encoder gives 4 channels and its decoder takes 4"):
        from_ldm({**state, "encoder.conv_out.weight": torch.ones(4, 32, 3, 3)})
