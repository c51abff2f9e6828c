"""Data: toy manifolds, digits, array files, a user's own function; checked, normalised and split in one place."""

from kdiff.data.arrays import load_array
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.directions import principal_directions
from kdiff.data.manifold import Manifold, make_manifold
from kdiff.data.normalisation import Normalisation
from kdiff.data.sources import SOURCES, digits, load
from kdiff.data.toys import gaussian_mixture, moons, sphere, spiral

__all__ = [
    "SOURCES",
    "Dataset",
    "Manifold",
    "Normalisation",
    "digits",
    "gaussian_mixture",
    "load",
    "load_array",
    "make_dataset",
    "make_manifold",
    "moons",
    "principal_directions",
    "sphere",
    "spiral",
]
