"""What the loop trains: a module that turns a batch into a loss and the numbers to log. The loop knows nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from kdiff.model import KDiff
from kdiff.precision import full_precision


class Objective(nn.Module, ABC):
    """A trainable thing. `module` is what is saved and averaged."""

    module: nn.Module

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and further scalars to average over the logging interval."""

    def state(self) -> dict[str, float]:
        """What to log of the module as it stands (k)."""
        return {}

    def gradients(self) -> dict[str, Tensor]:
        """Scalars of the gradient, after a backward pass, to average over the logging interval."""
        return {}

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for the optimiser. The group named "target" stays out of the norm that clips."""
        return [{"name": "network", "params": list(self.module.parameters()), "lr": lr, "weight_decay": weight_decay}]


class DiffusionObjective(Objective):
    """The loss of a `KDiff`, split along and across the data's leading principal directions.

    Args:
        model: the model.
        directions: (D, q), orthonormal columns; the loss is then logged as loss_along + loss_across = loss, the mean square of
            the error within their span and outside it, both over all D dimensions; a cosine term comes on top.
    """

    module: KDiff

    def __init__(self, model: KDiff, directions: Tensor | None = None) -> None:
        super().__init__()
        self.module = model
        self.directions: Tensor | None
        self.register_buffer("directions", directions, persistent=False)

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its two parts."""
        error, cosine = self.module.terms(x, **({} if y is None else {"y": y}))
        loss, extras = error.square().mean(), dict[str, Tensor]()
        if self.directions is not None:
            along = _mean_square_within(error.detach(), self.directions)
            extras = {"loss_along": along, "loss_across": loss.detach() - along}
        if cosine is None:
            return loss, extras
        return loss + self.module.cosine_weight * cosine, {**extras, "loss_cosine": cosine.detach()}

    def state(self) -> dict[str, float]:
        """What the target says of itself: k."""
        return self.module.target.state()

    def gradients(self) -> dict[str, Tensor]:
        """Of w, if k is learned."""
        return self.module.target.gradients()

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Those of the model: k apart, without decay."""
        return self.module.parameter_groups(lr, weight_decay)


@full_precision
def _mean_square_within(error: Tensor, directions: Tensor) -> Tensor:
    """The part of the error's mean square within the span: under autocast, the product would be one of bfloat16."""
    return (error.flatten(1) @ directions).square().sum() / error.numel()


class ClassificationObjective(Objective):
    """Cross-entropy of a classifier called as classifier(x) -> logits (batch, classes)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.module = classifier

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, and the share of right answers."""
        if y is None:
            raise ValueError("a classifier is trained on labelled data; these samples have no labels")
        logits = self.module(x)
        accuracy = (logits.argmax(1) == y).float().mean()
        return functional.cross_entropy(logits.float(), y), {"accuracy": accuracy}


class AutoencoderObjective(Objective):
    """Reconstruction through a drawn latent, and a little KL: the loss of a variational autoencoder (Kingma and Welling, 2014).

        mean over images and entries |x − x̂| (or its square) + kl_weight · KL(q(latent | x) ‖ N(0, 1)) / D

    Args:
        autoencoder: one of diffusers' AutoencoderKL.
        kl_weight: of the KL, which is summed over a latent; D is the number of entries of an image.
        reconstruction: "l1" or "mse".
    """

    def __init__(self, autoencoder: nn.Module, kl_weight: float, reconstruction: Literal["l1", "mse"] = "l1") -> None:
        super().__init__()
        self.module, self.kl_weight = autoencoder, kl_weight
        self.distance = functional.l1_loss if reconstruction == "l1" else functional.mse_loss

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its two terms, the KL before weighting."""
        autoencoder: Any = self.module
        posterior = autoencoder.encode(x).latent_dist
        error = self.distance(autoencoder.decode(posterior.sample()).sample.float(), x)
        kl = posterior.kl().float().mean() / x[0].numel()
        return error + self.kl_weight * kl, {"reconstruction": error, "kl": kl}
