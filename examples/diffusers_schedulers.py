r"""Compare the schedulers of diffusers with kdiff's solvers on the same trained model.

    kdiff train --data digits --steps 1500 --network "JiT(patch_size=2, hidden_size=32, depth=2, num_heads=2, \
        bottleneck=8, context_start=1, context_tokens=2)"
    python examples/diffusers_schedulers.py runs/digits

The script exports the run, loads the export as any user of diffusers would, and gives every scheduler the same noise. It prints
one row per scheduler: the solver of kdiff to compare with, the scheduler's evaluations of the network, and the largest and the
root mean square difference between their samples, in the model's units (data lie in [-1, 1]). The last two columns are the
errors of scheduler and solver: the root mean square differences of their samples from a fine solution.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

import kdiff
from kdiff.export.diffusers_folder import export

SCHEDULERS = {
    "Euler": (FlowMatchEulerDiscreteScheduler(), "euler"),
    "Heun": (FlowMatchHeunDiscreteScheduler(), "heun"),
    "UniPC": (UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True), "dpmpp_2m"),
}


def main() -> list[tuple[str, float]]:
    """Print the table; returns the largest difference for each scheduler."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="a run folder of kdiff train")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--num", type=int, default=64, help="number of samples")
    parser.add_argument("--guidance", type=float, default=1.0)
    options = parser.parse_args()

    run = kdiff.load_run(options.run)
    with tempfile.TemporaryDirectory() as folder:
        export(run, Path(folder) / "pipeline")
        pipeline = DiffusionPipeline.from_pretrained(Path(folder) / "pipeline", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)

    noise = run.model.noise_scale * kdiff.draw_noise(options.num, run.shape)
    labels = torch.arange(options.num) % run.data["num_classes"] if run.data["num_classes"] else None
    conditions = {} if labels is None else {"y": labels}
    ours = {"guidance": options.guidance, "last_step": "data", **conditions}
    theirs = {"guidance_scale": options.guidance, "latents": noise, "class_labels": labels, "output_type": "latent"}
    exact = run.model.sample(noise, solver="rk4", steps=400, **ours)

    columns = ("evaluations", "largest", "rms", "error", "solver's error")
    print(f"{'scheduler':10}{'solver':12}" + "".join(f"{column:>16}" for column in columns))
    found = []
    for name, (scheduler, solver) in SCHEDULERS.items():
        pipeline.scheduler = scheduler
        images = pipeline(num_inference_steps=options.steps, **theirs).images
        samples = run.model.sample(noise, solver=solver, steps=options.steps, **ours)
        difference = (images - samples).abs()
        errors = [(x - exact).square().mean().sqrt().item() for x in (images, samples)]
        count = len(scheduler.timesteps)
        print(
            f"{name:10}{solver:12}{count:16d}{difference.max():16.2e}{difference.square().mean().sqrt():16.2e}"
            f"{errors[0]:16.2e}{errors[1]:16.2e}"
        )
        found.append((name, difference.max().item()))
    return found


if __name__ == "__main__":
    main()
