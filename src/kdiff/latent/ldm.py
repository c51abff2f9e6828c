"""State dicts in the layout of latent diffusion (LDM), the layout of VA-VAE and FLUX, as an autoencoder of diffusers.

    encoder.down.<level>.block.<i>     → encoder.down_blocks.<level>.resnets.<i>
    encoder.down.<level>.attn.<i>      → encoder.down_blocks.<level>.attentions.<i>
    decoder.up.<level>.…               → decoder.up_blocks.<levels − 1 − level>.…

Keys and shapes show the architecture. VA-VAE f16d32 (Yao and Wang, 2025, arXiv 2501.01423) has 128 channels times 1, 1, 2, 2,
4, two blocks per level, attention at the lowest level, and 32 latent channels. FLUX.2's own file has its quant convolutions
within encoder and decoder, and in `bn` the statistics by which latents are scaled, in patches of 2×2: it becomes an
AutoencoderKLFlux2, every other file an AutoencoderKL. The widths of FLUX.2's decoder may differ from those of its encoder.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdiff.files.tensors import load_weights
from kdiff.files.weights import unwrapped

ENDS = ("encoder.conv_in.weight", "decoder.conv_in.weight")  # weights that every such autoencoder has
PREFIXES = ("", "first_stage_model.", "vae.", "module.")
# Weights that only training uses: losses with their networks, VA-VAE's foundation model and its projection, averages.
TRAINING = ("loss.", "discriminator.", "perceptual_loss.", "foundation_model.", "linear_proj.", "model_ema.")
STATISTICS = {"bn.running_mean", "bn.running_var"}
COUNTER = "bn.num_batches_tracked"  # used in training only; a file may lack it
EPSILON = 1e-4  # what FLUX.2 adds to the variance in `bn`
RENAMED = {  # in this order, within a key
    r"^encoder\.quant_conv\.": "quant_conv.",
    r"^decoder\.post_quant_conv\.": "post_quant_conv.",
    r"^encoder\.down\.": "encoder.down_blocks.",
    r"\.block\.": ".resnets.",
    r"\.attn\.": ".attentions.",
    r"\.(down|up)sample\.": r".\1samplers.0.",
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.mid\.attn_1\.": ".mid_block.attentions.0.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"coder\.norm_out\.": "coder.conv_norm_out.",
    r"(attentions\.\d+\.)norm\.": r"\1group_norm.",
    r"(attentions\.\d+\.)([qkv])\.": r"\1to_\2.",
    r"(attentions\.\d+\.)proj_out\.": r"\1to_out.0.",
}


def ldm_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of the class of diffusers, AutoencoderKLFlux2 or AutoencoderKL, for a state dict without prefix.

    Raises:
        ValueError: the state dict has another layout.
    """
    try:
        levels, blocks = _number_of(state, "encoder.down"), _number_of(state, "encoder.down.0.block")
        attended = [f"encoder.down.{level}.attn.0.norm.weight" in state for level in range(levels)]
        config: dict[str, Any] = {
            "in_channels": state["encoder.conv_in.weight"].shape[1],
            "out_channels": state["decoder.conv_out.weight"].shape[0],
            "latent_channels": state["decoder.conv_in.weight"].shape[1],
            "block_out_channels": [state[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] for level in range(levels)],
            "layers_per_block": blocks,
            "down_block_types": ["AttnDownEncoderBlock2D" if there else "DownEncoderBlock2D" for there in attended],
            "up_block_types": ["AttnUpDecoderBlock2D" if there else "UpDecoderBlock2D" for there in reversed(attended)],
            "norm_num_groups": 32,  # the same in every LDM autoencoder; the weights do not show it
            "mid_block_add_attention": "encoder.mid.attn_1.norm.weight" in state,
            "use_quant_conv": not {"quant_conv.weight", "encoder.quant_conv.weight"}.isdisjoint(state),
            "use_post_quant_conv": not {"post_quant_conv.weight", "decoder.post_quant_conv.weight"}.isdisjoint(state),
        }
        if STATISTICS.isdisjoint(state):
            config["scaling_factor"] = None  # not among the weights
        else:
            widths = [state[f"decoder.up.{level}.block.0.conv2.weight"].shape[0] for level in range(levels)]
            side = math.isqrt(state["bn.running_mean"].numel() // config["latent_channels"])
            decoder = {} if widths == config["block_out_channels"] else {"decoder_block_out_channels": widths}
            config |= {"patch_size": [side, side], "batch_norm_eps": EPSILON, **decoder}
    except KeyError as error:
        if any(key.startswith("encoder.down_blocks.") for key in state):
            raise ValueError(
                "it holds an autoencoder in the layout of diffusers, whose architecture stands in a config.json: name the "
                "folder that holds both, or put the file there as diffusion_pytorch_model.safetensors"
            ) from None
        raise ValueError(
            f"it holds no autoencoder in the layout of latent diffusion (no {error.args[0]}): expected "
            f"encoder.down.0.block.0.…, decoder.conv_in.weight, …; it holds {', '.join(list(state)[:3]) or 'none of these'} …"
        ) from None
    except IndexError:
        raise ValueError("its convolutions have other than four dimensions; expected weights for images") from None
    encoded = state["encoder.conv_out.weight"].shape[0] if "encoder.conv_out.weight" in state else 0
    if encoded != 2 * config["latent_channels"]:
        raise ValueError(
            f"its encoder gives {encoded} channels and its decoder takes {config['latent_channels']}: expected an encoder with "
            "twice as many, mean and variance (AutoencoderKL)"
        )
    return config


def _number_of(state: Mapping[str, Tensor], parts: str) -> int:
    """The number of parts called parts.0.…, parts.1.… without a gap; KeyError if there is no parts.0."""
    numbers = {int(match[1]) for key in state if (match := re.match(rf"{re.escape(parts)}\.(\d+)\.", key))}
    if 0 not in numbers:
        raise KeyError(f"{parts}.0")
    return next(number for number in itertools.count() if number not in numbers)


def from_ldm(state: Mapping[str, Tensor]) -> nn.Module:
    """The autoencoder of diffusers with the weights of a state dict in the layout of latent diffusion.

    Raises:
        ValueError: the layout is another one; or weights are missing, left over or of another shape (the first are named).
            Only weights that training alone uses may be left over. Or diffusers has no AutoencoderKLFlux2.
    """
    import diffusers

    own = {key: value.float() for key, value in _without_prefix(state).items() if not key.startswith(TRAINING)}
    config = ldm_config(own)
    name = "AutoencoderKL" if STATISTICS.isdisjoint(own) else "AutoencoderKLFlux2"
    if not hasattr(diffusers, name):
        raise ValueError(f"it needs {name}, which diffusers {diffusers.__version__} does not have; pip install -U diffusers")
    module: nn.Module = getattr(diffusers, name)(**config)
    wanted = module.state_dict()
    converted: dict[str, Tensor] = {COUNTER: wanted[COUNTER]} if COUNTER in wanted and COUNTER not in own else {}
    for key, value in own.items():
        new = _renamed(key, len(config["block_out_channels"]))
        if new not in wanted or new in converted:  # left over: it keeps its own name, by which it is refused
            converted |= {key if new not in wanted else f"{key} ({new} again)": value}
        elif wanted[new].ndim == 2 and value.shape[2:] == (1, 1):  # attention's linear maps are convolutions there
            converted[new] = value[:, :, 0, 0]
        else:
            converted[new] = value
    load_weights(module, converted, Path("it"))
    return module


def _renamed(key: str, levels: int) -> str:
    """diffusers' name of a weight."""
    key = re.sub(r"^decoder\.up\.(\d+)\.", lambda match: f"decoder.up_blocks.{levels - 1 - int(match[1])}.", key)
    for old, new in RENAMED.items():
        key = re.sub(old, new, key)
    return key


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the prefix of the encoder's weights, without this prefix."""
    first = next((prefix for prefix in PREFIXES if f"{prefix}{ENDS[0]}" in state), None)
    if first is None:
        return unwrapped(state, ENDS)
    return {key.removeprefix(first): value for key, value in state.items() if key.startswith(first)}
