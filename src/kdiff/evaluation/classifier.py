"""A small classifier of labelled data whose features judge samples. It is trained on a part of the data that no model sees.

Features learned on the data themselves resolve what matters in the data; Inception's features would not (digits of 8×8, tables
of vectors). The classifier is kept, with its accuracy, in the cache folder ($KDIFF_CACHE, else ~/.cache/kdiff) under the
fingerprint of its data.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdiff.config.training import LoopConfig
from kdiff.data import Dataset
from kdiff.files.atomic import new_folder, read_json, write_json
from kdiff.files.cache import cache_folder
from kdiff.files.tensors import load_tensors, load_weights, save_tensors
from kdiff.training.loop import fit
from kdiff.training.objective import ClassificationObjective

FEATURES = 32
RECIPE = LoopConfig(
    steps=800, batch_size=64, learning_rate=2e-3, schedule="cosine", weight_decay=0.01, ema=[0.99], log_every=100
)
RECIPE_VERSION = 1


class Classifier(nn.Module):
    """Three convolutions for images (C, H, W), two hidden layers on vectors for all else; then 32 features, then classes."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        if len(shape) == 3:
            self.body = nn.Sequential(
                nn.Conv2d(shape[0], 32, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
                nn.GELU(),
                nn.Conv2d(64, 64, 3, stride=2, padding=1),
                nn.GELU(),
                nn.AdaptiveAvgPool2d(3),
                nn.Flatten(),
                nn.Linear(64 * 9, FEATURES),
            )
        else:
            self.body = nn.Sequential(
                nn.Flatten(),
                nn.Linear(int(torch.tensor(shape).prod()), 128),
                nn.GELU(),
                nn.Linear(128, 128),
                nn.GELU(),
                nn.Linear(128, FEATURES),
            )
        self.head = nn.Sequential(nn.GELU(), nn.Linear(FEATURES, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        logits: Tensor = self.head(self.body(x))
        return logits

    @torch.no_grad()
    def features(self, x: Tensor, batch_size: int = 1000) -> Tensor:
        """The 32 features of each sample, (N, 32), on the CPU."""
        device = next(self.parameters()).device
        return torch.cat([self.body(chunk.to(device)).cpu() for chunk in x.split(batch_size)])


@dataclass
class TrainedClassifier:
    """A classifier, its accuracy on the held-out part, and a hash of its weights, which identifies the features."""

    network: Classifier
    accuracy: float
    digest: str


def dataset_classifier(dataset: Dataset) -> TrainedClassifier:
    """The classifier of a labelled data set: read from the cache, or trained now on the part that is reserved for it.

    Raises:
        ValueError: data without labels.
    """
    if dataset.y is None:
        raise ValueError(f"{dataset.name} has no labels, so no classifier can be trained on it")
    folder = cache_folder() / "classifiers" / f"{dataset.fingerprint}-{_recipe(dataset)}"
    with torch.random.fork_rng(devices=[]):
        network = Classifier(dataset.shape, dataset.num_classes)
    if not (folder / "classifier.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        accuracy = _train(network, dataset)
        # Another process may have been faster; its files are not replaced, because others may be reading them.
        if not (folder / "classifier.json").exists():
            with new_folder(folder) as aside:
                save_tensors(aside / "classifier.safetensors", network.state_dict())
                write_json(aside / "classifier.json", {"accuracy": accuracy, "data": dataset.describe()})
    # The files are read back in any case, so that every process judges by the same bytes.
    facts = read_json(folder / "classifier.json", {"accuracy": float}, f"remove {folder}, and the classifier is trained again")
    weights = folder / "classifier.safetensors"
    load_weights(network, load_tensors(weights), weights)
    digest = hashlib.blake2b(weights.read_bytes(), digest_size=8).hexdigest()
    return TrainedClassifier(network.eval(), facts["accuracy"], digest)


def _recipe(dataset: Dataset) -> str:
    """A digest of all else that decides the classifier: its training, and the values that it sees."""
    data = (dataset.normalisation.describe(), dataset.shape, dataset.num_classes)
    text = repr((RECIPE_VERSION, RECIPE, *data, torch.__version__))
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _train(network: Classifier, dataset: Dataset) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
    x, y = dataset.part("classifier")
    fitted = fit(ClassificationObjective(network), x, y, RECIPE, progress=f"classifier to judge {dataset.name} by")
    load_weights(network.cpu(), fitted.ema.averages[RECIPE.ema[0]], Path("averages"))
    x, y = dataset.part("heldout")
    assert y is not None
    guesses = torch.cat([network(chunk).argmax(1) for chunk in x.split(1000)])
    return (guesses == y).double().mean().item()
