"""Networks: pure modules called as network(z, t, **conditions), which know nothing of k.

    MLP, Linear, LowRankLinear                     vectors, and small images read as vectors
    JiT, DiT (also SiT), LightningDiT, UViT        transformers on patches of images and latents, signals, and volumes

The transformers and the MLP take labels as network(z, t, y): y is int64, and the label num_classes means "no class". They also
take conditions of any other kind. `condition=` is then the user's module; it is called as condition(y, batch) and returns a
vector of the network's width for each sample, or an `Embedded` with a vector and tokens, which stand in front of the patches.
y is None where no condition is given. The module must read None, and the value that `KDiff(null={"y": …})` names, as "no
condition".
"""

from __future__ import annotations

from kdiff.networks.dit import DiT, LightningDiT
from kdiff.networks.embedding import Embedded
from kdiff.networks.jit import JiT
from kdiff.networks.matrix import Linear, LowRankLinear
from kdiff.networks.mlp import MLP
from kdiff.networks.official import from_official, load_official, to_official
from kdiff.networks.sizes import NETWORKS, find_network, published
from kdiff.networks.uvit import UViT

__all__ = [
    "MLP",
    "NETWORKS",
    "DiT",
    "Embedded",
    "JiT",
    "LightningDiT",
    "Linear",
    "LowRankLinear",
    "UViT",
    "find_network",
    "from_official",
    "load_official",
    "published",
    "to_official",
]
