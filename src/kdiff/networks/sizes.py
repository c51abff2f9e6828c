"""Networks by name: `MLP(width=512)`, a class path, or a published size, FAMILY-SIZE/PATCH: "JiT-B/16", "DiT-XL/2".

A name gives the width and depth of a network, and the side of a patch in pixels. Any patch size is allowed, also one without
published weights. The caller gives image size, channels and classes. Sources: the papers named in `jit`, `dit` and `uvit`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from kdiff.config.parts import Spec, resolve
from kdiff.networks.dit import DiT, LightningDiT
from kdiff.networks.jit import JiT
from kdiff.networks.matrix import Linear, LowRankLinear
from kdiff.networks.mlp import MLP
from kdiff.networks.uvit import UViT


@dataclass(frozen=True)
class _Family:
    """The class of a family, the options of each size, and the options that all sizes share."""

    network: Callable[..., nn.Module]
    sizes: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any]


def _sizes(**sizes: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    options = ("hidden_size", "depth", "num_heads", "bottleneck", "context_start")
    return {name: dict(zip(options, size)) for name, size in sizes.items()}


_DIT = _sizes(S=(384, 12, 6), B=(768, 12, 12), L=(1024, 24, 16), XL=(1152, 28, 16))
_JIT = _sizes(B=(768, 12, 12, 128, 4), L=(1024, 24, 16, 128, 8), H=(1280, 32, 16, 256, 10))
_LIGHTNING = {"1p0B": (1536, 24, 24), "1p6B": (1792, 28, 28)}
_UVIT = _sizes(**{"S": (512, 12, 8), "S-deep": (512, 16, 8), "M": (768, 16, 12), "L": (1024, 20, 16), "H": (1152, 28, 16)})
_UVIT["H"]["final_conv"] = False

FAMILIES = {
    "JiT": _Family(JiT, _JIT, {"context_tokens": 32}),
    "DiT": _Family(DiT, _DIT, {}),
    "SiT": _Family(DiT, _DIT, {}),
    "LightningDiT": _Family(LightningDiT, {**{name: _DIT[name] for name in ("B", "L", "XL")}, **_sizes(**_LIGHTNING)}, {}),
    # The sinusoid gets 999 t for t in [0, 1], as in the official continuous-time models.
    "U-ViT": _Family(UViT, _UVIT, {"time_scale": 999.0}),
}


def published(
    architecture: str, image_size: int | Sequence[int], channels: int, num_classes: int, **overrides: Any
) -> nn.Module:
    """A network of a published size, by its name.

    Sizes: JiT B, L, H; DiT and SiT S, B, L, XL; LightningDiT B, L, XL, 1p0B, 1p6B; U-ViT S, S-deep, M, L, H. The patch can be
    any that divides the image. DiT and SiT come without the channels of sigma that their official weights have; to get them,
    give `learn_sigma=True`, for SiT also `drop_sigma=True`.

    Args:
        architecture: "FAMILY-SIZE/PATCH", such as "JiT-B/16".
        image_size: pixels on a side, or the size along each axis: (height, width), (length,) or (depth, height, width).
        channels: C.
        num_classes: the number of labels, without "no class".
        overrides: other arguments of the network's class.

    Raises:
        ValueError: the name is unknown, or the sizes do not fit together.
    """
    families = "|".join(re.escape(name) for name in FAMILIES)
    match = re.fullmatch(rf"({families})-([\w-]+)/([1-9]\d*)", architecture)
    if not match or match[2] not in FAMILIES[match[1]].sizes:
        known = "; ".join(f"{name}-{'|'.join(family.sizes)}" for name, family in FAMILIES.items())
        raise ValueError(
            f"no network is called {architecture!r}; expected FAMILY-SIZE/PATCH such as 'JiT-B/16'; known: {known}"
        )
    family = FAMILIES[match[1]]
    settings = {**family.common, **family.sizes[match[2]], "patch_size": int(match[3]), **overrides}
    return family.network(image_size=image_size, channels=channels, num_classes=num_classes, **settings)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    each.__name__: each for each in (MLP, Linear, LowRankLinear, JiT, DiT, LightningDiT, UViT)
}


def find_network(spec: Spec, **given: Any) -> Callable[[], nn.Module]:
    """A function that builds the network that `spec` names; `kdiff.config.parts.resolve` explains `given` and the errors."""
    also = "a published size ('JiT-B/16'), or a class path (package.module.Class)"
    return resolve("network", spec, NETWORKS, given, _sized, also, of=nn.Module)


def _sized(name: str) -> Callable[..., nn.Module] | None:
    return partial(published, architecture=name) if re.fullmatch(r"\w[\w-]*-\w+/\w+", name) else None
