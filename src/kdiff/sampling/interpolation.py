"""Interpolation between noises, on the sphere (Shoemake, 1985).

Noise of many dimensions has a length near √D. A straight line between two noises runs through points that are too short to be
noise, and the samples from these points look washed out. A great circle keeps the length.
"""

from __future__ import annotations

import torch
from torch import Tensor


def slerp(start: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """Noise between `start` (weight 0) and `end` (weight 1), sample by sample and with their shape.

    The direction is (sin((1 − w) Ω) â + sin(w Ω) b̂)/sin Ω for unit vectors â, b̂ at an angle Ω, so equal steps of w are equal
    angles. The length changes linearly from the length of `start` to the length of `end`.

    Args:
        start: noise, (batch, ...).
        end: noise of the same shape.
        weight: a number, or one for each sample, (batch,).

    Raises:
        ValueError: the shapes differ, a vector is zero, or two vectors point in opposite directions (no way is the shortest).
    """
    if start.shape != end.shape:
        raise ValueError(f"start has shape {tuple(start.shape)} and end {tuple(end.shape)}; expected the same")
    a, b = start.flatten(1), end.flatten(1)
    w = torch.as_tensor(weight, dtype=a.dtype, device=a.device).reshape(-1, 1)
    lengths = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    if not (lengths[0] * lengths[1] > 0).all():
        raise ValueError("a vector is zero and has no direction to interpolate; expected noise")
    a, b = a / lengths[0], b / lengths[1]
    # An arc tangent is exact for small angles too, where an arc cosine is not.
    angle = 2 * torch.atan2((a - b).norm(dim=1, keepdim=True), (a + b).norm(dim=1, keepdim=True))
    if (a + b).norm(dim=1).min() < 1e-3:
        raise ValueError("two vectors point in opposite directions: no great circle between them is the shortest")
    # sin(wΩ)/sin Ω, which is w where Ω = 0.
    near = angle < 1e-4
    safe = torch.where(near, 1.0, angle)
    first = torch.where(near, 1 - w, ((1 - w) * safe).sin() / safe.sin())
    second = torch.where(near, w, (w * safe).sin() / safe.sin())
    return (torch.lerp(*lengths, w.expand_as(lengths[0])) * (first * a + second * b)).view_as(start)
