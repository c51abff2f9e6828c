"""Other people's models and libraries: published weights as kdiff models, and on from there with a learned k; diffusers.

`kdiff.interop.pipeline` and `kdiff.interop.transformer` need diffusers; nothing else here imports it before it is wanted.
"""

from kdiff.interop.finetune import velocity_change, with_learned_k
from kdiff.interop.loss import KDiffLoss
from kdiff.interop.published import ByItsClock, as_model, noisiest_time

__all__ = ["ByItsClock", "KDiffLoss", "as_model", "noisiest_time", "velocity_change", "with_learned_k"]
