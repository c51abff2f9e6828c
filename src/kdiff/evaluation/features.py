"""Networks whose features judge images: Inception v3, DINOv2, or the data's own classifier.

    inception    pool (2048), for FID (Heusel et al., 2017), KID, precision and recall
                 spatial (2023), for sFID (Nash et al., 2021): the first 7 channels of a 17 x 17 map (row, column, channel)
                 logits (1008, without the bias), for the Inception score (Salimans et al., 2016)
    dinov2       pool (384 ... 1536), the normalised class token, for FD-DINOv2 (Stein et al., 2023)
    classifier   pool (32) of the classifier that is trained on the data itself (`kdiff.evaluation.classifier`)

Inception is torch-fidelity's, with the weights and the resizing of the original FID. The spatial map is the tensor that ADM's
evaluation calls mixed_6/conv: the output of the 1 x 1 branch, after the rectifier, of the block that ADM calls mixed_6 and this
network Mixed_6d. All networks run in float32 without TF32, which would change the third digit from one accelerator to the next.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdiff.data import Dataset
from kdiff.data.progress import shown
from kdiff.evaluation.classifier import dataset_classifier
from kdiff.evaluation.images import Images, value_range
from kdiff.files.weights import read_weights

SPATIAL_CHANNELS, SPATIAL_SIDE = 7, 17
STANDARD_INCEPTION = "6726825d"  # the first digits of the SHA-256 of the weights of published FIDs
DINO_SIDE = 224
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Extractor(ABC):
    """A network that computes features of images.

    Attributes:
        name: inception, dinov2 or classifier.
        layers: the features that Fréchet distances are computed in, and how many there are.
        digest: the first 16 hex digits of a hash of the weights.
        facts: further facts for the stamp of a result.
    """

    name: str
    layers: Mapping[str, int]
    digest: str
    facts: Mapping[str, Any]

    @abstractmethod
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features by layer, float32 (n, F) on the CPU, of uint8 images (n, C, H, W) with C = 1 or 3."""

    def stamp(self) -> dict[str, Any]:
        """What identifies these features."""
        return {"name": self.name, "weights": self.digest, "layers": dict(self.layers), **self.facts}


class Inception(Extractor):
    """torch-fidelity's Inception v3.

    Args:
        weights: a `.pth` file with torch-fidelity's keys; downloaded to torch's folder of checkpoints if left out. Before
            torch-fidelity reads it, `kdiff.files.weights` checks it without running any code.

    Raises:
        FileNotFoundError, ValueError: no such file, or a file with other contents.
        OSError: the file cannot be downloaded.
    """

    name = "inception"
    layers: Mapping[str, int] = {"pool": 2048, "spatial": SPATIAL_CHANNELS * SPATIAL_SIDE**2}

    def __init__(self, weights: str | None = None) -> None:
        fidelity_installed()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = Path(weights).expanduser() if weights is not None else _downloaded()
        if path.is_dir():
            raise ValueError(f"{path} is a folder; expected the .pth file with torch-fidelity's Inception weights")
        read_weights(path)
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(path))
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{path} holds no Inception weights with torch-fidelity's keys ({reason})") from None
        self.network = network.to(_device())
        self._spatial = torch.empty(0)
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep)
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        self.digest = checksum[:16]
        self.facts = {
            "resize": "bilinear to 299×299 as TensorFlow 1 does (torch-fidelity)",
            "standard_weights": checksum.startswith(STANDARD_INCEPTION),
        }

    def _keep(self, module: Any, inputs: Any, output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).cpu()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """pool (n, 2048), spatial (n, 2023) and logits (n, 1008)."""
        with _exact_convolutions():
            pool, logits = self.network(_coloured(images).to(_device()))
        return {"pool": pool.cpu(), "spatial": self._spatial, "logits": logits.cpu()}


class Dino(Extractor):
    """DINOv2 (Oquab et al., 2023) from a folder in transformers' layout: config.json and model.safetensors.

    Images are scaled to 224 x 224 by bicubic interpolation with antialiasing, as by Stein et al. and EDM2.

    Raises:
        FileNotFoundError, ValueError: no folder is named, it does not exist, or it does not hold such a model.
    """

    name = "dinov2"

    def __init__(self, weights: str | None = None) -> None:
        dinov2 = _dinov2_class()
        wanted = "a folder with config.json and model.safetensors, such as facebook/dinov2-large, with --feature-weights FOLDER"
        if weights is None:
            raise ValueError(f"dinov2 has no weights of its own; expected {wanted}")
        folder = Path(weights).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder at {folder}; expected {wanted}")
        files = sorted(folder.glob("*.safetensors"))
        if not files or not (folder / "config.json").exists():
            there = ", ".join(sorted(file.name for file in folder.iterdir()))
            raise ValueError(f"{folder} holds {there or 'nothing'}; expected {wanted}")
        try:
            network, found = dinov2.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
        except Exception as error:  # a damaged file fails in many ways
            raise ValueError(f"{folder} cannot be read as DINOv2 ({str(error).strip().partition(chr(10))[0]})") from None
        missing = [*found["missing_keys"], *found.get("mismatched_keys", [])]
        if missing:
            raise ValueError(f"{folder} is not a complete DINOv2: {len(missing)} weights are missing, e.g. {missing[0]}")
        self.network = network.to(_device()).eval().requires_grad_(False)
        self.layers = {"pool": network.config.hidden_size}
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.read_bytes())
        self.digest = digest.hexdigest()[:16]
        self.facts = {"resize": "bicubic with antialiasing to 224×224"}
        self._mean, self._std = (torch.tensor(c, device=_device()).view(3, 1, 1) for c in (DINO_MEAN, DINO_STD))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """pool (n, F)."""
        x = _coloured(images).to(_device()).float()
        x = F.interpolate(x, (DINO_SIDE, DINO_SIDE), mode="bicubic", antialias=True) / 255
        with _exact_convolutions():
            return {"pool": self.network((x - self._mean) / self._std).pooler_output.cpu()}


class OwnClassifier(Extractor):
    """The classifier of a labelled set of images (`kdiff.evaluation.classifier`), trained on a part that no model sees.

    Raises:
        ValueError: data without labels.
    """

    name = "classifier"

    def __init__(self, dataset: Dataset) -> None:
        trained = dataset_classifier(dataset)
        self.network, self.digest = trained.network, trained.digest
        self.shape = dataset.shape
        self.low, self.high = value_range(dataset.describe())
        self.layers = {"pool": 32}
        self.facts = {"resize": "none", "accuracy": trained.accuracy, "data": dataset.fingerprint}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """pool (n, 32).

        Raises:
            ValueError: images of another shape than the classifier's.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"the classifier takes images of shape {self.shape}, found {tuple(images.shape[1:])}")
        return {"pool": self.network.features(self.low + images.float() * ((self.high - self.low) / 255))}


def fidelity_installed() -> None:
    """Raise ValueError, with what to type, if torch-fidelity is not installed."""
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        raise ValueError(
            "Inception, KID, precision and recall need torch-fidelity, which is not installed; type pip install 'kdiff[fid]'"
        ) from None


def features_of(images: Images, extractor: Extractor, batch_size: int, rows: Tensor | None = None) -> dict[str, Tensor]:
    """Features by layer, float32 (n, F) in order, of all images or of those in `rows` (ascending numbers)."""
    found: dict[str, list[Tensor]] = {}
    first = 0
    for batch in shown(images.read(batch_size), images.count, f"{extractor.name} features", len):
        chosen = slice(None) if rows is None else rows[(rows >= first) & (rows < first + len(batch))] - first
        first += len(batch)
        if len(batch[chosen]):
            for layer, values in extractor(batch[chosen]).items():
                found.setdefault(layer, []).append(values)
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def _dinov2_class() -> Any:
    try:
        from transformers import Dinov2Model
    except ImportError:
        raise ValueError("dinov2 needs transformers, which is not installed; type pip install transformers") from None
    return Dinov2Model


def _coloured(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _exact_convolutions() -> Any:
    """Make cuDNN use float32, and the same algorithm every time."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _downloaded() -> Path:
    """The file of torch-fidelity's weights in torch's folder of checkpoints; downloaded if missing."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), STANDARD_INCEPTION)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"Inception's weights cannot be downloaded ({error}); download {URL_INCEPTION_V3} on another machine, and "
                "name the file with --feature-weights PATH"
            ) from None
    return path
