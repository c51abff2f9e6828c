"""Autoencoders in the layout of latent diffusion."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

# Old name: new name, within a key of diffusers.
RENAMED = {
    r"encoder\.down_blocks\.(\d+)\.": r"encoder.down.\1.",
    r"(down\.\d+|up\.\d+)\.resnets\.": r"\1.block.",
    r"(down\.\d+|up\.\d+)\.attentions\.": r"\1.attn.",
    r"\.(down|up)samplers\.0\.": r".\1sample.",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    r"to_([qkv])\.": r"\1.",
    r"to_out\.0": "proj_out",
}


@pytest.fixture
def to_ldm() -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A state dict of diffusers' AutoencoderKL in the layout of latent diffusion."""

    def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        levels = 1 + max(int(match[1]) for key in state if (match := re.match(r"encoder\.down_blocks\.(\d+)", key)))
        converted = {}
        for key, value in state.items():
            new = re.sub(r"decoder\.up_blocks\.(\d+)\.", lambda match: f"decoder.up.{levels - 1 - int(match[1])}.", key)
            for old, name in RENAMED.items():
                new = re.sub(old, name, new)
            # Attention's linear maps are convolutions there.
            converted[new] = value[:, :, None, None] if re.search(r"attn.*(q|k|v|proj_out)\.weight", new) else value
        return converted

    return convert


def attended(levels: list[bool], **options: Any) -> AutoencoderKL:
    """With attention in some levels, every weight drawn at random."""
    module = AutoencoderKL(
        down_block_types=["AttnDownEncoderBlock2D" if there else "DownEncoderBlock2D" for there in levels],
        up_block_types=["AttnUpDecoderBlock2D" if there else "UpDecoderBlock2D" for there in reversed(levels)],
        **options,
    )
    for parameter in module.parameters():
        if parameter.device.type != "meta":
            torch.nn.init.normal_(parameter, std=0.1)
    return module.eval()


@pytest.fixture
def make_attended() -> Callable[..., AutoencoderKL]:
    """`attended`, as a fixture."""
    return attended
