"""Options of the command line for conditions: values, files, rates, and what guidance acts on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdiff.commands.arguments import read_config
from kdiff.commands.sample import asked_for, together
from kdiff.config.sampling import SampleConfig, Sampling, sampler_options
from kdiff.config.training import TrainConfig
from kdiff.files.tensors import save_tensors
from kdiff.run.agreement import differences


def test_values_are_numbers_names_and_none() -> None:
    assert asked_for(["params=0.3,-1.2", "y=cat", "past=none", "level=2"]) == {
        "params": [0.3, -1.2],
        "y": "cat",
        "past": None,
        "level": 2.0,
    }
    assert asked_for(["params=[0.3, 1e3]", "y=left, right"]) == {"params": [0.3, 1000.0], "y": ["left", "right"]}


def test_files_give_arrays_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", params=np.ones((3, 2)))
    save_tensors(tmp_path / "plain.safetensors", {"past": torch.ones(3, 1, 4)})
    save_tensors(
        tmp_path / "samples.safetensors", {"x": torch.ones(3, 2), "y": torch.ones(3), "condition.kind": torch.zeros(3)}
    )
    found = asked_for([str(tmp_path / "rows.npz"), str(tmp_path / "plain.safetensors"), "y=1"])
    assert {name: np.shape(value) for name, value in found.items()} == {"params": (3, 2), "past": (3, 1, 4), "y": ()}
    assert set(asked_for([str(tmp_path / "samples.safetensors")])) == {"kind", "y"}
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"broken\.npz cannot be read: .*; expected a file of numpy\.savez"):
        asked_for([str(tmp_path / "broken.npz")])
    np.savez(tmp_path / "objects.npz", params=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"objects\.npz cannot be read"):
        asked_for([str(tmp_path / "objects.npz")])


def test_the_option_may_be_repeated_and_stand_before_the_run() -> None:
    words = ["--condition", "a=1", "runs/x", "--condition=b=2", "--num", "4", "--condition", "v.npz"]
    assert together(words, "--condition") == ["runs/x", "--num", "4", "--condition", "a=1", "b=2", "v.npz"]
    assert together(["runs/x", "--num", "4"], "--condition") == ["runs/x", "--num", "4"]


def test_rates_and_conditions_of_guidance_are_options() -> None:
    config, _, _ = read_config("train", TrainConfig, ["--null-rates.params", "0.3", "--null_rates.y", "0.1"], "[CONFIG]")
    assert config.null_rates == {"params": 0.3, "y": 0.1}
    config, _, _ = read_config("train", TrainConfig, ["--null_rates", '{"params": 0.2}'], "[CONFIG]")
    assert config.null_rates == {"params": 0.2}
    config, _, _ = read_config("sample", SampleConfig, ["runs/x", "--guidance", "2", "--guide-on", "y", "params"], "RUN")
    assert config.guide_on == ["y", "params"]
    assert sampler_options(config)["guide_on"] == ["y", "params"]
    assert "guide_on" not in sampler_options(Sampling())


def test_conditions_are_a_difference_between_data() -> None:
    none = {"kind": "none", "shift": 0.0, "scale": 1.0}
    base = {"shape": [3], "num_classes": 0, "normalisation": none, "fingerprint": "", "name": "a"}
    params = {"name": "params", "kind": "vector", "shape": [2], "num_classes": 0, "normalisation": none}
    with_it = {**base, "conditions": {"params": params}}
    assert differences(with_it, with_it, "runs/x") == {}
    text = differences(base, with_it, "runs/x")["conditions"]
    assert text == "the data have other conditions (params, a vector of shape (2,)) than those of runs/x (none)"
    fitted = {**params, "normalisation": {"kind": "features", "shift": [0.0, 1.0], "scale": [2.0, 3.0]}}
    found = differences(with_it, {**base, "conditions": {"params": fitted}}, "runs/x")
    assert found == {
        "conditions": "the condition params is normalised by features (shift 0 1, scale 2 3); that of runs/x by none"
    }
