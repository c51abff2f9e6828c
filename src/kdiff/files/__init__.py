"""Files that are complete or do not exist: atomic writing, tensors, published weights, and the cache."""

from typing import Any

from kdiff.config import moved


def __getattr__(name: str) -> Any:
    return moved.attribute(__name__, name)  # `kdiff.files` was a module of its own
