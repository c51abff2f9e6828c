"""A forecast with an ensemble: a toy equation of the atmosphere, two past frames, and the law of the next one.

    ∂u/∂t + w · ∇u = κ ∇²u − r u + noise        u(x, y, t) on a torus, with the same law at every time

Every run has its own wind w, which is not written down: a forecaster has to find it in two frames. The equation is linear,
so the step from one frame to the next is exact in Fourier space, and the forecast of somebody who knows the wind is a
Gaussian with a known variance s². Its expected CRPS is s/√π, and no forecast can be better. The
climate, which looks at no frame, has 1/√π.

    python examples/forecast.py                    simulate, train, and judge ensembles of 16 (about ten minutes on two cores)
    python examples/forecast.py --steps 300        the same with few steps

The folder forecast/ gets a picture of three forecasts. The runs are written as HDF5, and `window=[2, 1]` cuts them into
samples: two frames as the condition "past", and the next one.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np

from kdiff.config.training import TrainConfig
from kdiff.evaluation.ensemble import EnsembleFigures, judge_ensemble
from kdiff.training.trainer import train_run

SIDE, STEP = 24, 1.0  # points on a side of the torus (of length 2π), and the time between two frames
DIFFUSION, DAMPING, SLOPE = 0.015, 0.03, 4.0  # κ, r, and the slope of the spectrum of u
WIND = 0.4  # the standard deviation of each component of the wind


def spectra() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wave numbers (2, 24, 13), the variance of every mode of u, and the factor by which it decays in a step."""
    kx, ky = np.meshgrid(np.fft.rfftfreq(SIDE, 1 / SIDE), np.fft.fftfreq(SIDE, 1 / SIDE))
    squared = kx**2 + ky**2
    variance = np.where(squared > 0, (1 + squared) ** (-SLOPE / 2 - 0.5), 0.0)
    twice = np.where((kx > 0) & (kx < SIDE / 2), 2.0, 1.0)  # a mode and its mirror image
    variance /= (twice * variance).sum()
    return np.stack([kx, ky]), variance, np.exp(-(DIFFUSION * squared + DAMPING) * STEP)


def noise_scale() -> float:
    """The standard deviation s of the next frame at every point, for somebody who knows the wind."""
    (kx, _), variance, decay = spectra()
    twice = np.where((kx > 0) & (kx < SIDE / 2), 2.0, 1.0)
    return math.sqrt((twice * variance * (1 - decay**2)).sum())


def runs(num: int, frames: int, generator: np.random.Generator) -> np.ndarray:
    """Runs of the equation, (num, frames, 1, 24, 24), float32; every point has mean 0 and variance 1 at every time."""
    k, variance, decay = spectra()
    wind = WIND * generator.standard_normal((num, 2))
    turn = np.exp(-1j * STEP * np.tensordot(wind, k, axes=1)) * decay
    scale = np.sqrt(variance)

    def drawn() -> np.ndarray:
        """White noise in Fourier space whose fields have variance 1 at every point."""
        return np.fft.rfft2(generator.standard_normal((num, SIDE, SIDE)), norm="forward") * SIDE

    modes, found = scale * drawn(), []
    for _ in range(frames):
        found.append(np.fft.irfft2(modes, s=(SIDE, SIDE), norm="forward"))
        modes = turn * modes + scale * np.sqrt(1 - decay**2) * drawn()
    return np.stack(found, axis=1)[:, :, None].astype(np.float32)


def draw(path: Path, past: np.ndarray, truth: np.ndarray, members: np.ndarray) -> None:
    """A line for each forecast: two past frames (n, 2, 24, 24), the truth (n, 24, 24), and members (n, m, 24, 24)."""
    titles = ["before", "now", "next: the truth", "mean of the ensemble", *["member"] * 3, "spread"]
    figure, panels = plt.subplots(len(truth), len(titles), figsize=(1.5 * len(titles), 1.6 * len(truth)), squeeze=False)
    for row, frames, true, ensemble in zip(panels, past, truth, members):
        fields = [*frames, true, ensemble.mean(0), *ensemble[:3], ensemble.std(0, ddof=1)]
        for panel, title, field in zip(row, titles, fields):
            wide = {"vmin": 0, "vmax": 1, "cmap": "viridis"} if title == "spread" else {"vmin": -3, "vmax": 3, "cmap": "RdBu_r"}
            shown = panel.imshow(field, origin="lower", **wide)
            panel.set(xticks=[], yticks=[])
            if row is panels[0]:
                panel.set_title(title, fontsize=8)
        figure.colorbar(row[0].images[0], ax=row[:-1].tolist(), fraction=0.01, pad=0.01)
        figure.colorbar(shown, ax=row[-1], fraction=0.046)
    figure.savefig(path, dpi=90, bbox_inches="tight")


def main() -> tuple[EnsembleFigures, EnsembleFigures]:
    """Train, and judge ensembles for held-out windows; the figures of the model, and of the climate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("forecast"), help="the folder to write into")
    parser.add_argument("--runs", type=int, default=300, help="simulated runs of 12 frames")
    parser.add_argument("--steps", type=int, default=3000, help="training steps")
    parser.add_argument("--network", default="JiT(patch_size=3, hidden_size=96, depth=4, num_heads=3, bottleneck=27)")
    parser.add_argument("--truths", type=int, default=100, help="held-out windows")
    parser.add_argument("--members", type=int, default=16, help="members of an ensemble")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    with h5py.File(options.out / "runs.h5", "w") as file:
        file["u"] = runs(options.runs, 12, np.random.default_rng(0))
    data = f"{options.out / 'runs.h5'}(key=u, time_axis=1, window=[2, 1])"
    config = TrainConfig(data=data, network=options.network, steps=options.steps, batch_size=64)
    run = train_run(config, options.out / "run", progress="training")

    dataset = run.dataset()
    unit = dataset.normalisation.undo
    truth = unit(dataset.part("heldout")[0][: options.truths])
    past = dataset.conditions["past"].normalisation.undo(dataset.conditions_of("heldout")["past"][: options.truths])
    members, _ = run.sample(conditions={"past": past}, ensemble=options.members)
    members = members.reshape(len(truth), -1, *run.shape)
    model = judge_ensemble(members, truth)
    climate = unit(dataset.part("train")[0][:: len(dataset.part("train")[0]) // 100])
    usual = judge_ensemble(climate.expand(len(truth), *climate.shape), truth)

    print(f"CRPS: model {model.crps:.3f} ± {model.standard_error:.3f}, climate {usual.crps:.3f}")
    print(f"of somebody who knows the wind: {noise_scale() / math.sqrt(math.pi) / truth.std().item():.3f}")
    print(f"error of the mean {model.error:.3f}, spread {model.spread:.3f}, spread over skill {model.ratio:.2f}")
    step = max(1, len(truth) // 3)
    seen = (past.reshape(len(past), 2, SIDE, SIDE), truth[:, 0], members[:, :, 0])
    draw(options.out / "forecast.png", *(each[::step][:3].numpy() for each in seen))
    return model, usual


if __name__ == "__main__":
    main()
