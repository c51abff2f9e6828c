"""What gives weights another meaning: each difference of two descriptions is found by its name, and rounding is none."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from kdiff.data import Normalisation
from kdiff.run.agreement import differences, nameless

LATENTS = {"autoencoder": {"source": "a", "identity": "1"}}
PLAIN = {
    "name": "old",
    "shape": [3, 2, 2],
    "num_classes": 2,
    "normalisation": {"kind": "range", "shift": 127.5, "scale": 127.5},
    "fingerprint": "f",
    "class_names": ["cat", "dog"],
}
CHANNELS = {"kind": "channels", "shift": [[[0.0]]] * 3, "scale": [[[127.5]]] * 3}


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"class_names": ["dog", "cat"]}, "classes", "number 0 is 'dog' and was 'cat', 1 is 'cat' and was 'dog'"),
        ({"num_classes": 3}, "classes", "the data have 3 classes; those of RUN have 2"),
        ({"num_classes": 0, "class_names": None}, "classes", "the data have 0 classes"),
        ({"shape": [3, 4, 4]}, "shape", r"shape \(3, 4, 4\); those of RUN have \(3, 2, 2\)"),
        ({"latents": LATENTS}, "autoencoder", r"latents of the autoencoder a \(identity 1\); those of RUN are not latents"),
        (
            {"normalisation": CHANNELS},
            "normalisation",
            r"channels \(shift 0 0 0, scale 127.5 .*; those of RUN by range",
        ),
        (
            {"normalisation": {"kind": "range", "shift": 127.5, "scale": 128.0}},
            "normalisation",
            r"range \(shift 127.5, scale 128\)",
        ),
        ({"normalisation": {"kind": "range", "shift": 127.0, "scale": 127.5}}, "normalisation", "shift 127"),
    ],
)
def test_each_difference_has_its_name(changes, name, words) -> None:
    with_names = differences(PLAIN, {**PLAIN, **changes}, "RUN")
    assert list(with_names) == [name]
    assert re.search(words, with_names[name])


def test_latents_of_another_autoencoder_of_the_same_shape() -> None:
    other = {"autoencoder": {"source": "b", "identity": "2"}}
    found = differences({**PLAIN, "latents": LATENTS}, {**PLAIN, "latents": other}, "RUN")
    assert found == {
        "autoencoder": "the samples are latents of the autoencoder b (identity 2); those of RUN are latents of the autoencoder "
        "a (identity 1)"
    }
    moved = {"autoencoder": {"source": "elsewhere", "identity": "1"}}
    assert not differences({**PLAIN, "latents": LATENTS}, {**PLAIN, "latents": moved}, "RUN")


def test_the_same_map_in_another_form_and_rounding_are_no_difference() -> None:
    """One number for all channels, or equal numbers for each; statistics computed in float32 or in float64."""
    forms = [
        {"kind": kind, "shift": np.full(s, 127.5).tolist(), "scale": np.full(s, 127.5).tolist()}
        for kind, s in (("standard", ()), ("channels", (3, 1, 1)), ("features", (3, 2, 2)))
    ]
    for form in forms:
        assert not differences(PLAIN, {**PLAIN, "normalisation": form}, "RUN")
    raw = 2.4e6 + torch.rand(1000, 3, 2, 2, dtype=torch.float64)
    single, double = (Normalisation.fit("standard", raw.to(kind)).describe() for kind in (torch.float32, torch.float64))
    double["scale"] = single["scale"]
    assert not differences({**PLAIN, "normalisation": single}, {**PLAIN, "normalisation": double}, "RUN")


def test_who_records_no_names() -> None:
    without = {key: value for key, value in PLAIN.items() if key != "class_names"}
    assert nameless(PLAIN, PLAIN, "RUN") == nameless(without, without, "RUN") == ""  # the same samples have the same classes
    assert nameless(PLAIN, {**without, "fingerprint": "g", "name": "new"}, "RUN") == "new"
    assert nameless(without, {**PLAIN, "fingerprint": "g"}, "RUN") == "RUN"
    assert nameless(without, {**without, "fingerprint": "g", "num_classes": 0}, "RUN") == ""
