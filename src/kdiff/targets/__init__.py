"""Prediction targets u = a x − b n, and the conversions of u to velocity, data and noise. Only this package computes with k."""

from kdiff.targets.constant import FixedK, LearnedK
from kdiff.targets.named import TARGETS, as_target, find_target, fixed_k
from kdiff.targets.target import LINE, PAPER_CLAMP, Axis, Curve, Description, Target, to_data, to_noise, to_velocity
from kdiff.targets.varied import GeneralTarget, LearnedKOfTime, LearnedPair

__all__ = [
    "LINE",
    "PAPER_CLAMP",
    "TARGETS",
    "Axis",
    "Curve",
    "Description",
    "FixedK",
    "GeneralTarget",
    "LearnedK",
    "LearnedKOfTime",
    "LearnedPair",
    "Target",
    "as_target",
    "find_target",
    "fixed_k",
    "to_data",
    "to_noise",
    "to_velocity",
]
