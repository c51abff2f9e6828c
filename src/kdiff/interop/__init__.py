"""Other people's models and libraries: published weights as kdiff models, and on from there with a learned k."""

from kdiff.interop.finetune import velocity_change, with_learned_k
from kdiff.interop.published import ByItsClock, as_model, noisiest_time

__all__ = ["ByItsClock", "as_model", "noisiest_time", "velocity_change", "with_learned_k"]
