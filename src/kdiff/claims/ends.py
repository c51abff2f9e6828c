"""The ends of t, where conversions divide by small numbers: is everything finite there, and how much does bfloat16 change?

    t = 0, 1e-6, 1e-4, 0.01, ½, 0.99, 1 − 1e-4, 1 − 1e-6, 1

At each of these times the output û of a trained network is converted to v̂, x̂ and n̂, with the clamp of 0.05 and without one,
and the loss and its gradient are computed: in float32, and with the network under autocast to bfloat16 (conversions and loss
stay in float32, as in training).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kdiff.model import KDiff
from kdiff.run.run import load_run
from kdiff.targets import PAPER_CLAMP

TIMES = (0.0, 1e-6, 1e-4, 0.01, 0.5, 0.99, 1 - 1e-4, 1 - 1e-6, 1.0)


def at_the_ends(folder: Path, x: Tensor, y: Tensor | None) -> tuple[list[str], dict[str, float]]:
    """The quantities that are not finite ("data without clamp at t = 1 in bf16"), and how far bf16 is from float32.

    The distance is the root mean square of the difference, divided by that of the float32 values; the largest over all times.
    It is given for û ("output"), for its conversions under the clamp ("velocity", "data", "noise") and for the "gradient" of
    the loss.

    Args:
        folder: the folder of a finished run.
        x: samples of its data, (N, *shape), normalised.
        y: (N,) labels, if the data have labels.
    """
    model = load_run(folder, calibrated=False).model
    device = next(model.parameters()).device
    x, conditions = x.to(device), {} if y is None else {"y": y.to(device)}
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(device)
    broken: list[str] = []
    worst: dict[str, float] = {}
    for t in TIMES:
        exact, rough = (_quantities(model, x, noise, t, conditions, bf16) for bf16 in (False, True))
        for name, precision, values in [(n, p, q[n]) for p, q in (("float32", exact), ("bf16", rough)) for n in q]:
            if not values.isfinite().all():
                broken.append(f"{name} at t = {t:.7g} in {precision}")
        for name in ("output", "velocity", "data", "noise", "gradient"):
            scale = exact[name].square().mean().sqrt()
            distance = ((rough[name] - exact[name]).square().mean().sqrt() / scale.clamp(min=1e-12)).item()
            worst[name] = max(worst.get(name, 0.0), distance)
    return broken, worst


def _quantities(
    model: KDiff, x: Tensor, noise: Tensor, t: float, conditions: dict[str, Tensor], bf16: bool
) -> dict[str, Tensor]:
    """û, its conversions, the loss and all gradients of the loss at one time, in float32."""
    times = torch.full((len(x),), t, device=x.device)
    model.zero_grad()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        loss = model.loss(x, times, noise, **conditions)
        loss.backward()
        with torch.no_grad():
            z = model.path.mix(x, noise, times)
            u = model.predict(z, times, **conditions).float()
            found = {"output": u, "loss": loss.detach()}
            for suffix, clamp in (("", PAPER_CLAMP), (" without clamp", 0.0)):
                for name in ("velocity", "data", "noise"):
                    convert = getattr(model.target, f"to_{name}")
                    found[name + suffix] = convert(u, z, times, model.path, clamp)
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return {**found, "gradient": torch.cat(gradients)}
