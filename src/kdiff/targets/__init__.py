"""Prediction targets u = a x − b n, and the conversions of u to velocity, data and noise. Only this package computes with k."""

from kdiff.targets.asymflow import AsymFlow
from kdiff.targets.bases import Basis, make_basis
from kdiff.targets.constant import FixedK, LearnedK
from kdiff.targets.description import LINE, Axis, Curve, Description
from kdiff.targets.directed import LearnedDirections
from kdiff.targets.named import TARGETS, as_target, find_target, fixed_k
from kdiff.targets.self_consistent import SelfConsistent
from kdiff.targets.spectral import Spectral
from kdiff.targets.target import PAPER_CLAMP, Target, to_data, to_noise, to_velocity
from kdiff.targets.two_ended import TwoEndedK
from kdiff.targets.varied import GeneralTarget, LearnedKOfTime, LearnedPair
from kdiff.targets.weighting import WEIGHTINGS, Weighting, make_weighting
from kdiff.targets.wiener import Wiener

__all__ = [
    "LINE",
    "PAPER_CLAMP",
    "TARGETS",
    "WEIGHTINGS",
    "AsymFlow",
    "Axis",
    "Basis",
    "Curve",
    "Description",
    "FixedK",
    "GeneralTarget",
    "LearnedDirections",
    "LearnedK",
    "LearnedKOfTime",
    "LearnedPair",
    "SelfConsistent",
    "Spectral",
    "Target",
    "TwoEndedK",
    "Weighting",
    "Wiener",
    "as_target",
    "find_target",
    "fixed_k",
    "make_basis",
    "make_weighting",
    "to_data",
    "to_noise",
    "to_velocity",
]
