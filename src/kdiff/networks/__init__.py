"""Networks: pure modules called as network(z, t, **conditions), which know nothing of k.

    MLP, Linear, LowRankLinear                     vectors, and small images read as vectors
    JiT, DiT (also SiT), LightningDiT, UViT        transformers on patches of images and latents

The transformers and the MLP take labels as network(z, t, y), y int64 and num_classes for "no class", or a condition of any
other kind: `condition=` is then a module of the user's, called as condition(y, batch), that returns a vector of the network's
width for each sample. y is None where no condition is given; that, and the value that `KDiff(null={"y": …})` names, is for the
module to read as "none".
"""

from __future__ import annotations

from kdiff.networks.dit import DiT, LightningDiT
from kdiff.networks.jit import JiT
from kdiff.networks.linear import Linear, LowRankLinear
from kdiff.networks.mlp import MLP
from kdiff.networks.official import from_official, load_official, to_official
from kdiff.networks.sizes import published
from kdiff.networks.uvit import UViT

__all__ = [
    "MLP",
    "DiT",
    "JiT",
    "LightningDiT",
    "Linear",
    "LowRankLinear",
    "UViT",
    "from_official",
    "load_official",
    "published",
    "to_official",
]
