"""What k should be before any training: linear theory, limits of capacity, the dynamics of learning, intrinsic dimension."""

from kdiff.theory.beyond import initial_loss, k_of_time, k_per_direction, wiener
from kdiff.theory.capacity import Arrangement, rank_limited
from kdiff.theory.gradient_flow import Modes, k_over_training, modes
from kdiff.theory.intrinsic_dimension import DimensionEstimate, estimate_dimensions
from kdiff.theory.optimum import expected_loss, optimal_k
from kdiff.theory.spectra import spectrum
from kdiff.theory.terms import Optimum, whitened
from kdiff.theory.tokens import patches, random_patches

__all__ = [
    "Arrangement",
    "DimensionEstimate",
    "Modes",
    "Optimum",
    "estimate_dimensions",
    "expected_loss",
    "initial_loss",
    "k_of_time",
    "k_over_training",
    "k_per_direction",
    "modes",
    "optimal_k",
    "patches",
    "random_patches",
    "rank_limited",
    "spectrum",
    "whitened",
    "wiener",
]
