"""Data from toy manifolds, images, array files or a user's function; all are checked, normalised and split in one place."""

from kdiff.data.arrays import load_array
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.directions import Moments, principal_directions
from kdiff.data.font import glyphs
from kdiff.data.idx import fashion, load_idx
from kdiff.data.image_folder import load_folder
from kdiff.data.latents import load_latents
from kdiff.data.manifold import Manifold, make_manifold
from kdiff.data.normalisation import Normalisation
from kdiff.data.photos import photo_patches
from kdiff.data.samples import ImageSamples, LazySamples, Samples
from kdiff.data.shards import LatentSamples
from kdiff.data.sources import SOURCES, digits, load
from kdiff.data.toys import gaussian_mixture, moons, sphere, spiral

__all__ = [
    "SOURCES",
    "Dataset",
    "ImageSamples",
    "LatentSamples",
    "LazySamples",
    "Manifold",
    "Moments",
    "Normalisation",
    "Samples",
    "digits",
    "fashion",
    "gaussian_mixture",
    "glyphs",
    "load",
    "load_array",
    "load_folder",
    "load_idx",
    "load_latents",
    "make_dataset",
    "make_manifold",
    "moons",
    "photo_patches",
    "principal_directions",
    "sphere",
    "spiral",
]
