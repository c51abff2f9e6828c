"""What the network is asked for, u = a x − b n, and the way back from u to the velocity: all that computes with k."""

from kdiff.target.base import PAPER_CLAMP, Target, to_data, to_noise, to_velocity
from kdiff.target.constant import FixedK, LearnedK, as_target
from kdiff.target.varied import GeneralTarget, LearnedKOfTime, LearnedPair

__all__ = [
    "PAPER_CLAMP",
    "FixedK",
    "GeneralTarget",
    "LearnedK",
    "LearnedKOfTime",
    "LearnedPair",
    "Target",
    "as_target",
    "to_data",
    "to_noise",
    "to_velocity",
]
