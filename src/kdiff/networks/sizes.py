"""Networks of published sizes by name, FAMILY-SIZE/PATCH: "JiT-B/16", "DiT-XL/2", "U-ViT-S-deep/2".

A name says how wide and deep a network is and the patch's side in pixels, any patch, published with weights or not. Size of
image, channels and classes are the caller's. Sources: the papers named in `jit`, `dit` and `uvit`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdiff.networks.dit import DiT, LightningDiT
from kdiff.networks.jit import JiT
from kdiff.networks.uvit import UViT


@dataclass(frozen=True)
class _Family:
    """The class, the options that make up each size, and those that all sizes share."""

    network: Callable[..., nn.Module]
    sizes: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any]


def _sizes(**sizes: tuple[int, int, int]) -> dict[str, dict[str, Any]]:
    return {name: dict(zip(("hidden_size", "depth", "num_heads"), size)) for name, size in sizes.items()}


_DIT = _sizes(S=(384, 12, 6), B=(768, 12, 12), L=(1024, 24, 16), XL=(1152, 28, 16))
_JIT = _sizes(B=(768, 12, 12), L=(1024, 24, 16), H=(1280, 32, 16))
_JIT_CONTEXT = {
    "B": {"bottleneck": 128, "context_start": 4},
    "L": {"bottleneck": 128, "context_start": 8},
    "H": {"bottleneck": 256, "context_start": 10},
}
_LIGHTNING = {"1p0B": (1536, 24, 24), "1p6B": (1792, 28, 28)}
_UVIT = _sizes(**{"S": (512, 12, 8), "S-deep": (512, 16, 8), "M": (768, 16, 12), "L": (1024, 20, 16), "H": (1152, 28, 16)})
_UVIT["H"]["final_conv"] = False

FAMILIES = {
    "JiT": _Family(JiT, {name: {**size, **_JIT_CONTEXT[name]} for name, size in _JIT.items()}, {"context_tokens": 32}),
    "DiT": _Family(DiT, _DIT, {}),
    "SiT": _Family(DiT, _DIT, {}),
    "LightningDiT": _Family(LightningDiT, {**{name: _DIT[name] for name in ("B", "L", "XL")}, **_sizes(**_LIGHTNING)}, {}),
    # Times in [0, 1] fill the sinusoid as the official continuous-time models do: by 999 t.
    "U-ViT": _Family(UViT, _UVIT, {"time_scale": 999.0}),
}


def published(
    architecture: str, image_size: int | tuple[int, int], channels: int, num_classes: int, **overrides: Any
) -> nn.Module:
    """A network of a published size by its name, for images of this size, with these channels and classes.

    Sizes: JiT B, L, H; DiT and SiT S, B, L, XL; LightningDiT B, L, XL, 1p0B, 1p6B; U-ViT S, S-deep, M, L, H; the patch is
    any that divides the image. DiT and SiT come without the channels of sigma that their official weights have: as published
    with `learn_sigma=True`, SiT also with `drop_sigma=True`.

    Args:
        architecture: "FAMILY-SIZE/PATCH", such as "JiT-B/16".
        image_size: pixels on a side, or (height, width).
        channels: C.
        num_classes: labels, "no class" not counted.
        overrides: other arguments of the network's class.

    Raises:
        ValueError: an unknown name, or sizes that do not fit together.
    """
    families = "|".join(re.escape(name) for name in FAMILIES)
    match = re.fullmatch(rf"({families})-([\w-]+)/([1-9]\d*)", architecture)
    if not match or match[2] not in FAMILIES[match[1]].sizes:
        known = "; ".join(f"{name}-{'|'.join(family.sizes)}" for name, family in FAMILIES.items())
        raise ValueError(f"no network is called {architecture!r}; expected FAMILY-SIZE/PATCH such as 'JiT-B/16', of {known}")
    family = FAMILIES[match[1]]
    settings = {**family.common, **family.sizes[match[2]], "patch_size": int(match[3]), **overrides}
    return family.network(image_size=image_size, channels=channels, num_classes=num_classes, **settings)
