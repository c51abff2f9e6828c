"""State dicts in the layout of latent diffusion (LDM), the layout of VA-VAE, as an AutoencoderKL of diffusers.

    encoder.down.<level>.block.<i>     → encoder.down_blocks.<level>.resnets.<i>
    encoder.down.<level>.attn.<i>      → encoder.down_blocks.<level>.attentions.<i>
    decoder.up.<level>.…               → decoder.up_blocks.<levels − 1 − level>.…

Keys and shapes show the architecture. VA-VAE f16d32 (Yao and Wang, 2025, arXiv 2501.01423) has 128 channels times 1, 1, 2, 2,
4, two blocks per level, attention at the lowest level, and 32 latent channels. diffusers' own conversion does most of the work,
but does not convert attention within levels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
PREFIXES = ("", "first_stage_model.", "vae.", "module.")
ATTENTION = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.attn\.(\d+)\.")


def ldm_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of diffusers' AutoencoderKL for a state dict without prefix.

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
            "use_quant_conv": "quant_conv.weight" in state,
            "use_post_quant_conv": "post_quant_conv.weight" in state,
            "scaling_factor": 1.0,  # not among the weights; statistics per channel replace it
        }
    except KeyError as error:
        raise ValueError(
            f"it holds no autoencoder in the layout of latent diffusion (no {error.args[0]}): expected "
            f"encoder.down.0.block.0.…, decoder.conv_in.weight, …; it holds {', '.join(list(state)[:3]) or 'none of these'} …"
        ) from None
    encoded = state["encoder.conv_out.weight"].shape[0] if "encoder.conv_out.weight" in state else 0
    if encoded != 2 * config["latent_channels"]:
        raise ValueError(
            f"its encoder gives {encoded} channels and its decoder takes {config['latent_channels']}: expected an encoder with "
            "twice as many, mean and variance (AutoencoderKL)"
        )
    return config


def _number_of(state: Mapping[str, Tensor], parts: str) -> int:
    """The number of parts called parts.0.…, parts.1.… and so on; KeyError if there are none."""
    numbers = [int(match[1]) for key in state if (match := re.match(rf"{re.escape(parts)}\.(\d+)\.", key))]
    if not numbers:
        raise KeyError(f"{parts}.0")
    return 1 + max(numbers)


def from_ldm(state: Mapping[str, Tensor]) -> nn.Module:
    """diffusers' AutoencoderKL with the weights of a state dict in the layout of latent diffusion.

    Raises:
        ValueError: the layout is another one; or weights are missing, left over or of another shape (all are named).
    """
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, update_vae_attentions_ldm_to_diffusers

    own = {key: value.float() for key, value in _without_prefix(state).items() if key.startswith(PARTS)}
    config = ldm_config(own)
    attention = {key: value for key, value in own.items() if ATTENTION.match(key)}
    converted: dict[str, Any] = convert_ldm_vae_checkpoint({key: own[key] for key in own if key not in attention}, config)
    for key in attention:
        where, level, index = ATTENTION.match(key).groups()  # type: ignore[union-attr]
        block = int(level) if where == "encoder.down" else len(config["block_out_channels"]) - 1 - int(level)
        mapping = {"old": f"{where}.{level}.attn.{index}", "new": f"{where}_blocks.{block}.attentions.{index}"}
        update_vae_attentions_ldm_to_diffusers([key], converted, own, mapping)
    module: nn.Module = AutoencoderKL(**config)
    try:
        module.load_state_dict(converted)
    except RuntimeError as error:
        raise ValueError(f"it does not fit the architecture that its keys show: {' '.join(str(error).split())}") from None
    return module


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the prefix of the encoder's weights, without this prefix."""
    first = next((prefix for prefix in PREFIXES if f"{prefix}encoder.conv_in.weight" in state), "")
    return {key.removeprefix(first): value for key, value in state.items() if key.startswith(first)}
