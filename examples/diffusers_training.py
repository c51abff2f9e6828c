"""A diffusers training script with a learned prediction target: a transformer of diffusers on scikit-learn's digits.

    python examples/diffusers_training.py --steps 600

The script has the structure of diffusers' scripts for flow matching, such as the DreamBooth script for SD3. The comment "kdiff"
marks the lines that differ from those scripts. Data, noise, times, weighting, model, optimiser and scheduler are the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from diffusers.utils import make_image_grid, pt_to_pil
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from kdiff.published import KDiffLoss  # kdiff


def main() -> tuple[list[float], list[float]]:
    """Train, and write samples and weights; returns the loss and k of every step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--target", default="learned", help="learned, noise, velocity or data")
    parser.add_argument("--out", type=Path, default=Path("runs/diffusers_digits"))
    options = parser.parse_args()
    torch.manual_seed(0)

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1  # (1797, 1, 8, 8) in [-1, 1]
    labels = torch.tensor(digits.target)

    transformer = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=1,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
    )
    scheduler = FlowMatchEulerDiscreteScheduler()
    loss_fn = KDiffLoss(target=options.target)  # kdiff
    optimizer = torch.optim.AdamW(
        # kdiff: no weight decay for k, which it would pull towards 1/2.
        [{"params": transformer.parameters()}, {"params": loss_fn.parameters(), "weight_decay": 0.0}],
        lr=options.learning_rate,
    )

    losses, ks = [], []
    for step in range(options.steps):
        chosen = torch.randint(len(images), (options.batch_size,))
        model_input = images[chosen]
        noise = torch.randn_like(model_input)
        u = compute_density_for_timestep_sampling("logit_normal", options.batch_size, logit_mean=0.0, logit_std=1.0)
        indices = (u * scheduler.config.num_train_timesteps).long()
        timesteps, sigmas = scheduler.timesteps[indices], scheduler.sigmas[indices].reshape(-1, 1, 1, 1)
        noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise

        model_pred = transformer(noisy_model_input, timesteps, class_labels=labels[chosen]).sample
        weighting = compute_loss_weighting_for_sd3("none", sigmas)
        # Without kdiff: target = noise - model_input; loss = (weighting * (model_pred - target) ** 2).mean()
        loss = loss_fn(model_pred, model_input, noise, sigmas, weighting)  # kdiff

        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)  # kdiff: only the network, so that k keeps its pace
        optimizer.step()
        losses.append(loss.item())
        ks.append(loss_fn.target.state()["k"])
        if step % 100 == 0 or step == options.steps - 1:
            print(f"step {step + 1:5d}  loss {sum(losses[-100:]) / len(losses[-100:]):.4f}  k {ks[-1]:.4f}", flush=True)

    options.out.mkdir(parents=True, exist_ok=True)
    transformer.save_pretrained(options.out / "transformer")
    save_file(loss_fn.state_dict(), options.out / "target.safetensors")  # kdiff: k belongs to the weights
    samples = sample(transformer.eval(), scheduler, loss_fn, torch.arange(40) % 10)
    make_image_grid(pt_to_pil(samples.repeat_interleave(4, 2).repeat_interleave(4, 3)), rows=4, cols=10).save(
        options.out / "samples.png"
    )
    print(f"weights and samples.png in {options.out}")
    return losses, ks


@torch.no_grad()
def sample(
    transformer: torch.nn.Module,
    scheduler: FlowMatchEulerDiscreteScheduler,
    loss_fn: KDiffLoss,
    labels: torch.Tensor,
    steps: int = 30,
) -> torch.Tensor:
    """Draw images (batch, 1, 8, 8) with the scheduler."""
    latents = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    for timestep in scheduler.timesteps:
        model_pred = transformer(latents, timestep.expand(len(labels)), class_labels=labels).sample
        # kdiff: convert the transformer's output to noise - data, which the scheduler expects.
        noise_pred = loss_fn.model_output(model_pred, latents, timestep / scheduler.config.num_train_timesteps)
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
    return latents


if __name__ == "__main__":
    main()
