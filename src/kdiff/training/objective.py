"""Objectives: modules that turn a batch into a loss and the numbers to log. The training loop knows nothing else of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdiff.model import KDiff
from kdiff.path import full_precision
from kdiff.targets import SelfConsistent, Weighting

Conditions = Mapping[str, Tensor] | Tensor | None  # by name, or labels alone, which are the condition "y"


def by_name(conditions: Mapping[str, Any] | Tensor | None) -> Mapping[str, Any]:
    """Conditions by name: labels alone are the condition "y"."""
    return {} if conditions is None else {"y": conditions} if isinstance(conditions, Tensor) else conditions


class Objective(nn.Module, ABC):
    """Something that the loop can train. Its `module` is saved and averaged."""

    module: nn.Module

    @abstractmethod
    def forward(self, x: Tensor, conditions: Conditions) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and further scalars, which are averaged over the logging interval. One may be called "loss".

        Of the conditions, each (batch, ...), the label is called "y".
        """

    def settle(self, add: Callable[[Tensor], Tensor] | None) -> None:
        """Called once in each step, after its micro-batches. `add` sums a tensor over all processes; None for one process."""

    def state(self) -> dict[str, float]:
        """Numbers of the module's present state to log, such as k."""
        return {}

    def headline(self) -> list[str]:
        """The names of the numbers that a progress bar shows besides the loss."""
        return []

    def gradients(self) -> dict[str, Tensor]:
        """Scalars of the gradient after a backward pass, which are averaged over the logging interval."""
        return {}

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for the optimiser. Clipping ignores the group named "target"."""
        return [{"name": "network", "params": list(self.module.parameters()), "lr": lr, "weight_decay": weight_decay}]


class DiffusionObjective(Objective):
    """The loss of a `KDiff`, also logged in two parts: along and across the data's leading principal directions.

    Args:
        model: the model.
        directions: (D, q), orthonormal columns, or None for no parts. loss_along is the mean square of the error within their
            span, loss_across outside it, both over all D dimensions; their sum is the loss without its cosine term.
    """

    module: KDiff

    def __init__(self, model: KDiff, directions: Tensor | None = None) -> None:
        super().__init__()
        self.module = model
        self.directions: Tensor | None
        self.register_buffer("directions", directions, persistent=False)

    def forward(self, x: Tensor, conditions: Conditions) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what is logged of it.

        With a weighting, a consistency loss or a penalty, "loss" is logged without it, so that it compares between targets.
        Beside it stand "weighted_loss", which is what a step minimises, and "penalty", as far as the model has them.

        The condition "mask" is not for the network: it says which entries of x are present, bool (batch, *shape). The others
        are read as 0 and have no error, and means are over present entries.
        """
        t = self.module.timesteps.sample(x.shape[0], device=x.device)
        named = dict(by_name(conditions))
        mask = named.pop("mask", None)
        error, cosine = self.module.terms(x if mask is None else torch.where(mask, x, 0.0), t, **named)
        if mask is not None:
            # So that every mean over all entries is one over the present ones.
            error = torch.where(mask, error, 0.0) * (mask.numel() / mask.sum().clamp(min=1)).sqrt()
        extras: dict[str, Tensor] = {}
        weighting, penalty = self.module.weighting, self.module.target.penalty()
        loss = self.module.weighed(error, t)
        weighting.observe(error, t)
        weighted = type(weighting) is not Weighting or isinstance(self.module.target, SelfConsistent)
        plain = error.detach().square().mean() if weighted else loss.detach()
        if self.directions is not None:
            along = _mean_square_within(error.detach(), self.directions)
            extras = {"loss_along": along, "loss_across": plain - along}
        if cosine is not None:
            added = self.module.cosine_weight * cosine
            loss, plain, extras = loss + added, plain + added.detach(), {**extras, "loss_cosine": cosine.detach()}
        if penalty is not None:
            loss, extras = loss + penalty, {**extras, "loss": plain, "penalty": penalty.detach()}
        if weighted:
            extras = {**extras, "loss": plain, "weighted_loss": loss.detach()}
        return loss, extras

    def settle(self, add: Callable[[Tensor], Tensor] | None) -> None:
        """Update the running means of the weighting."""
        self.module.weighting.settle(add)

    def state(self) -> dict[str, float]:
        """The state of the target, such as k."""
        return self.module.target.state()

    def headline(self) -> list[str]:
        """The name of the target's main number."""
        return list(self.state())[:1]

    def gradients(self) -> dict[str, Tensor]:
        """The gradients of the target's parameters w; empty if k is fixed."""
        return self.module.target.gradients()

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The model's groups: k has its own group, without weight decay."""
        return self.module.parameter_groups(lr, weight_decay)


@full_precision
def _mean_square_within(error: Tensor, directions: Tensor) -> Tensor:
    """The part of the error's mean square within the span, in full precision: autocast would multiply in bfloat16."""
    return (error.flatten(1) @ directions).square().sum() / error.numel()


class ClassificationObjective(Objective):
    """Cross-entropy of a classifier called as classifier(x) -> logits (batch, classes)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.module = classifier

    def forward(self, x: Tensor, conditions: Conditions) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy, and the accuracy."""
        y = by_name(conditions).get("y")
        if y is None:
            raise ValueError("a classifier is trained on labelled data; these samples have no labels")
        logits = self.module(x)
        accuracy = (logits.argmax(1) == y).float().mean()
        return functional.cross_entropy(logits.float(), y), {"accuracy": accuracy}

    def headline(self) -> list[str]:
        """The accuracy."""
        return ["accuracy"]


class AutoencoderObjective(Objective):
    """The loss of a variational autoencoder (Kingma and Welling, 2014): reconstruction from a drawn latent, and a KL term.

        mean over images and entries |x − x̂| (or its square) + kl_weight · KL(q(latent | x) ‖ N(0, 1)) / D

    Args:
        autoencoder: diffusers' AutoencoderKL.
        kl_weight: the weight of the KL, which is summed over a latent; D is the number of entries of an image.
        reconstruction: "l1" (absolute error) or "mse" (squared error).
    """

    def __init__(self, autoencoder: nn.Module, kl_weight: float, reconstruction: Literal["l1", "mse"] = "l1") -> None:
        super().__init__()
        self.module, self.kl_weight = autoencoder, kl_weight
        self.distance = functional.l1_loss if reconstruction == "l1" else functional.mse_loss

    def forward(self, x: Tensor, conditions: Conditions) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its two terms; the KL is given without its weight."""
        autoencoder: Any = self.module
        posterior = autoencoder.encode(x).latent_dist
        error = self.distance(autoencoder.decode(posterior.sample()).sample.float(), x)
        kl = posterior.kl().float().mean() / x[0].numel()
        return error + self.kl_weight * kl, {"reconstruction": error, "kl": kl}
