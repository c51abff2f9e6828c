"""Networks: pure modules called as network(z, t, **conditions), which know nothing of k."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdiff.networks.jit import JiT
from kdiff.networks.linear import Linear, LowRankLinear
from kdiff.networks.mlp import MLP
from kdiff.networks.official import from_official


def published(architecture: str, image_size: tuple[int, int], channels: int, num_classes: int, **overrides: Any) -> nn.Module:
    """A network of a published size by its name ("JiT-B/16"), for images of this size, with these channels and classes."""
    return JiT.published(architecture, image_size=image_size, channels=channels, num_classes=num_classes, **overrides)


__all__ = ["MLP", "JiT", "Linear", "LowRankLinear", "from_official", "published"]
