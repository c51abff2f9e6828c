"""Published models as kdiff models, fine-tuning them with a learned k, and the loss of a learned target for other scripts."""

from kdiff.published.finetune import velocity_change, with_learned_k
from kdiff.published.loss import KDiffLoss
from kdiff.published.models import ByItsClock, as_model, noisiest_time

__all__ = ["ByItsClock", "KDiffLoss", "as_model", "noisiest_time", "velocity_change", "with_learned_k"]
