"""The pipeline of an exported run: noise → a diffusers scheduler on the model's velocity → the data's units, or images.

The default scheduler, FlowMatchEulerDiscreteScheduler with sigmas 1 − i/N, gives the samples of `KDiff.sample(solver="euler")`.
"""

# No `from __future__ import annotations` here: diffusers reads the annotations of __init__, up to 0.35 only typing.Optional.
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from kdiff.data import Normalisation
from kdiff.export.diffusers_model import KDiffTransformer
from kdiff.export.flow_schedulers import USE, set_steps, uniform_sigmas
from kdiff.latent.kinds import kind_of
from kdiff.path import raise_wrong_times
from kdiff.run.given import check_guided, given_rows
from kdiff.sampling import guided_velocity

OUTPUTS = ("pil", "np", "pt", "latent")
# The code that diffusers runs to load an export. All other code is in kdiff and does not travel with the weights.
CODE = '''"""{what} of a model trained with kdiff. The class is defined in the kdiff package."""

try:
    from {module} import {name}
except ImportError as error:
    raise ImportError("this model was trained with kdiff and needs it: pip install kdiff") from error

__all__ = ["{name}"]
'''


class KDiffPipeline(DiffusionPipeline):
    """Draws samples from an exported run.

    Args:
        transformer: the model.
        scheduler: a scheduler for flow matching: FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, or
            UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction").
        vae: the autoencoder of a run on latents, of a class in `kdiff.latent.kinds`.
        data: "normalisation" (kind, shift, scale) and "image", the normalised values of black and white (low, high) or None
            for samples that are not images.
    """

    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ["vae"]  # noqa: RUF012

    def __init__(
        self,
        transformer: KDiffTransformer,
        scheduler: SchedulerMixin,
        vae: Optional[ModelMixin] = None,  # noqa: UP045
        data: Optional[dict[str, Any]] = None,  # noqa: UP045
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, vae=vae)
        self.register_to_config(data=data)

    sigmas = staticmethod(uniform_sigmas)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | Tensor | None = None,
        num_samples: int = 1,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        num_inference_steps: int = 50,
        sigmas: list[float] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        last_step: Literal["data", "euler"] = "data",
        output_type: str | None = None,
        return_dict: bool = True,
        conditions: Mapping[str, Any] | None = None,
        guide_on: Sequence[str] | None = None,
    ) -> Any:
        """Draw samples, returned as `ImagePipelineOutput(images=…)` or as a tuple of one element.

        Args:
            class_labels: one label for all samples, or one per sample, whole numbers; no class if left out.
            num_samples: the number of samples, unless class_labels or latents determine it.
            guidance_scale: the scale w of classifier-free guidance, which needs class_labels; 1 is no guidance.
            guidance_interval: guide while low < t < high, where t = 1 − σ (from t = 0 on if low is 0).
            guidance_rescale: from 0 to 1, how far the spread of guided samples is brought to that of unguided samples.
            num_inference_steps: the number of steps N, if `sigmas` is left out.
            sigmas: falling from 1, each value once, without the last 0; 1 − i/N if left out. A scheduler that takes no sigmas
                uses its own.
            generator: draws the noise, also that of a stochastic scheduler; a list has one generator per sample.
            latents: starting points (num, *shape) to use instead of drawn noise, with the model's noise scale.
            last_step: "data" makes the last evaluation of the model without its clamp, so that an Euler step ends at the data
                prediction; "euler" keeps the clamp, as the paper's sampler does.
            output_type: "pil" for PIL images; "np" for arrays (num, H, W, C) in [0, 1]; "pt" for (num, *shape) in the data's
                units, or decoded images in [−1, 1] for a run on latents; "latent" for normalised samples, as the model uses
                them. The default is "pil" for images, otherwise "pt".
            return_dict: True to return an `ImagePipelineOutput`, False for a tuple.
            conditions: for a model with conditions besides the class: values by name in the data's own units, as in
                {"params": [0.3, 1.2]}; one row for all samples, or a row for each. None, or no value, means "none".
            guide_on: the names of the conditions that guidance leads away from, "y" for the class; all if left out.

        Raises:
            ValueError: the labels or starting points do not fit the model; there are no samples to draw; the model does not
                have this output type; `last_step` has another value; the scheduler is not for flow matching, adds noise that
                the model does not expect, or its σ do not fall from 1 to 0; samples are not finite.
        """
        data = self.config.data or {"normalisation": Normalisation.none().describe(), "image": None}
        output_type = output_type or ("pil" if data["image"] else "pt")
        if output_type not in OUTPUTS or (output_type in ("pil", "np") and not data["image"]):
            raise ValueError(
                f"output_type is {output_type!r}; expected one of {', '.join(OUTPUTS if data['image'] else OUTPUTS[2:])}"
            )
        if last_step not in ("data", "euler"):
            raise ValueError(f"last_step is {last_step!r}; expected data or euler")
        device, last = self._execution_device, 0.0 if last_step == "data" else None
        count = num_samples if latents is None else len(latents)
        if count < 1:
            raise ValueError(f"{'num_samples' if latents is None else 'the number of latents'} is {count}; expected at least 1")
        if self.transformer.config.conditions:
            given = self._given(class_labels, conditions, count, device)
            if guidance_scale != 1:
                check_guided(self.transformer.model, guide_on, "this model")
        else:
            if conditions or guide_on:
                raise ValueError("conditions or guide_on are given, but this model has no conditions besides the class")
            labels = self._labels(class_labels, count, device)
            if guidance_scale != 1 and labels is None:
                raise ValueError(f"guidance_scale is {guidance_scale:g}; expected class_labels with it, or 1 for no guidance")
            self._check_no_class(guidance_scale, labels)
            given = {} if labels is None else {"y": labels}
        z = self._start(len(next(iter(given.values()))) if given else count, latents, generator, device)
        noise_scale = self.transformer.config.noise_scale
        timesteps = set_steps(self.scheduler, num_inference_steps, sigmas, latents is not None, noise_scale, device)
        # Only stochastic schedulers draw from it.
        drawn = {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        guidance = {"scale": guidance_scale, "interval": guidance_interval, "rescale": guidance_rescale, "only": guide_on}
        for i, timestep in enumerate(self.progress_bar(timesteps)):
            clamp = last if i == len(timesteps) - 1 else None
            output = self._output(z, timestep, given, guidance, clamp)
            z = self.scheduler.step(output, timestep, z, **drawn, return_dict=False)[0]
        raise_wrong_times()
        if not z.isfinite().all():
            broken = int((~z.flatten(1).isfinite().all(1)).sum())
            raise ValueError(
                f"{broken} of {len(z)} samples of {type(self.scheduler).__name__} are not finite (NaN or infinite); take more "
                f"steps or another scheduler: {USE}"
            )
        images = self._shown(z, output_type, data)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _given(self, labels: Any, conditions: Mapping[str, Any] | None, count: int, device: torch.device) -> dict[str, Tensor]:
        """All conditions by name, normalised, a row for each sample; `count` samples if there is one row for all."""
        config, model = self.transformer.config, self.transformer.model
        names = [*(["y"] if config.num_classes else []), *config.conditions]
        facts = {"num_classes": config.num_classes, "conditions": config.conditions}
        values = dict.fromkeys(names) | ({} if labels is None else {"y": labels}) | dict(conditions or {})
        rows = given_rows(facts, values, model.null)
        number = max(len(value) for value in rows.values())
        number = count if number == 1 else number
        return {name: value.expand(number, *value.shape[1:]).to(device) for name, value in rows.items()}

    def _labels(self, given: int | Sequence[int] | Tensor | None, count: int, device: torch.device) -> Tensor | None:
        if given is None:
            return None
        classes = self.transformer.config.num_classes
        known = f"whole numbers from 0 to {classes - 1}, or {classes} for no class"
        expected = f"expected {known}" if classes else "leave them out, because this model was trained without classes"
        try:
            labels = torch.as_tensor(given, device=device)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"class_labels are {given!r} ({str(error).splitlines()[0]}); {expected}") from None
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            kind = str(labels.dtype).removeprefix("torch.")
            raise ValueError(f"class_labels are {labels.tolist()}, of type {kind}; {expected}")
        labels = labels.long()
        labels = labels.expand(count) if labels.ndim == 0 else labels
        if labels.ndim != 1 or not len(labels) or labels.min() < 0 or labels.max() > classes or not classes:
            raise ValueError(f"class_labels are {labels.tolist()}; {expected}")
        return labels

    def _check_no_class(self, scale: float, labels: Tensor | None) -> None:
        """Raise ValueError if a model with classes that never saw "no class" in training would have to predict it."""
        classes = self.transformer.config.num_classes
        if not classes or self.transformer.config.null_rate:
            return
        if scale != 1:
            raise ValueError(
                f'guidance_scale is {scale:g}, but this model was trained with null_rate 0 and never saw "no class"; expected 1'
            )
        if labels is None or labels.max() == classes:
            raise ValueError(
                'this model was trained with null_rate 0 and never saw "no class"; expected class_labels from 0 to '
                f"{classes - 1} for all samples"
            )

    def _start(
        self,
        count: int,
        latents: Tensor | None,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device,
    ) -> Tensor:
        config, shape, dtype = self.transformer.config, (count, *self.transformer.config.shape), self.transformer.sample_dtype
        if latents is None:
            # The same noise in every precision.
            return config.noise_scale * randn_tensor(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents have shape {tuple(latents.shape)}; expected {shape}")
        return latents.to(device, torch.promote_types(latents.dtype, dtype))

    def _output(
        self, z: Tensor, timestep: Tensor, given: dict[str, Tensor], guidance: dict[str, Any], clamp: float | None
    ) -> Tensor:
        """n̂ − x̂ with guidance."""

        def velocity(z: Tensor, t: Tensor, y: Tensor | None = None, **conditions: Tensor) -> Tensor:
            return -self.transformer(z, timestep, y, clamp, return_dict=False, **conditions)[0]

        null = {"y": self.transformer.config.num_classes, **self.transformer.model.null}
        guided = guided_velocity(velocity, given, null, **guidance)
        return -guided(z, KDiffTransformer.time(timestep, z))

    def _shown(self, z: Tensor, output_type: str, data: dict[str, Any]) -> Any:
        """Convert normalised samples to `output_type`, and decode latents."""
        if output_type == "latent":
            return z
        normalisation = Normalisation.from_description(data["normalisation"])
        raw = normalisation.undo(z)
        if self.vae is not None:
            raw = kind_of(self.vae).decode(self.vae, raw.to(self.vae.dtype)).float().clamp(-1, 1)
        if output_type == "pt":
            return raw
        low, high = data["image"]["low"], data["image"]["high"]
        pixels = ((raw if self.vae is not None else z) - low) / (high - low)
        array = pixels.clamp(0, 1).permute(0, 2, 3, 1).cpu().float().numpy()
        return array if output_type == "np" else self.numpy_to_pil(array)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **options: Any) -> None:
        """Save like every pipeline, with two small files that let diffusers find its classes; ValueError for push_to_hub."""
        if push_to_hub:
            raise ValueError("push_to_hub is True; to upload a run, use kdiff export RUN --push-to-hub OWNER/NAME")
        super().save_pretrained(save_directory, **options)
        folder = Path(save_directory)
        for part in folder.glob("*/config.json"):
            _change(part, _name_or_path=None)  # the path on this machine from which the part was loaded
        _write_code(folder / "pipeline.py", "The pipeline", KDiffPipeline)
        _write_code(folder / "transformer" / "kdiff_transformer.py", "The network and its target", KDiffTransformer)
        classes = {
            "_class_name": ["pipeline", KDiffPipeline.__name__],
            "transformer": ["kdiff_transformer", KDiffTransformer.__name__],
        }
        _change(folder / "model_index.json", **classes)


def _change(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file; an entry set to None is removed."""
    changed = {**json.loads(path.read_text(encoding="utf-8")), **entries}
    there = {key: value for key, value in changed.items() if key not in entries or value is not None}
    path.write_text(json.dumps(there, indent=2) + "\n", encoding="utf-8")


def _write_code(path: Path, what: str, kind: type) -> None:
    path.write_text(CODE.format(what=what, module=kind.__module__, name=kind.__name__), encoding="utf-8")
