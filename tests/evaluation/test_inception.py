"""FID, sFID, Inception score, KID, precision and recall against torch-fidelity's own, with an Inception of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.evaluation.features import Inception
from kdiff.evaluation.frechet import frechet_distance, statistics
from kdiff.training.trainer import train_run

torch_fidelity = pytest.importorskip("torch_fidelity")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.* too few", "ignore:these are not the Inception weights")]
COUNTS = {"samples": 12, "reference": 14}
OPTIONS = ["--features", "inception", "--batch-size", "5"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in torch-fidelity's layout, with convolutions that keep the scale of what they are given."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    nn.init.normal_(network.fc.weight)  # or the classes of all images would be alike
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two folders of PNGs that differ in contrast; random blocks, so that there is something to see after scaling."""
    generator, parent = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for name, count in COUNTS.items():
        (parent / name).mkdir()
        for i in range(count):
            low, high = (0, 256) if name == "reference" else (8, 248)
            pixels = generator.integers(low, high, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(parent / name / f"{i:02d}.png")
    return {name: parent / name for name in COUNTS}


@pytest.fixture(scope="module")
def judged(weights: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `kdiff evaluate` made of them."""
    out = tmp_path_factory.mktemp("out")
    argv = [str(folders["samples"]), "--reference", str(folders["reference"]), "--feature-weights", str(weights), *OPTIONS]
    argv += ["--out", str(out), "--save-statistics", str(out / "samples.npz")]
    with pytest.warns(
        UserWarning, match=r"12 samples are too few for fid \(2048 features\), sfid \(2023 features\): covariances are singular"
    ):
        assert main(["evaluate", *argv]) == 0
    return out


def test_the_figures_are_torch_fidelitys(judged: Path, weights: Path, folders: dict[str, Path]) -> None:
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders["samples"]),
        input2=str(folders["reference"]),
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        kid_subset_size=12,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    ours = {name: figure["value"] for name, figure in json.loads((judged / "inception.json").read_text())["figures"].items()}
    # Both covariances are singular: of 2048 eigenvalues 12 are not 0, and theirs, of a matrix that is not symmetric, are
    # rounded to 1e-16 of the largest, the root of which is 1e-8.
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["inception_score"] - 1 == pytest.approx(theirs["inception_score_mean"] - 1, rel=1e-3)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert (ours["precision"], ours["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]))
    assert ours["fid"] > 1
    assert ours["sfid"] > 1
    assert ours["inception_score"] > 1.01
    assert 0 < ours["recall"] < 1


@pytest.fixture(scope="module")
def features(weights: Path, folders: dict[str, Path]) -> dict[str, Tensor]:
    """Of the samples."""
    inception = Inception(str(weights))
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folders["samples"].iterdir())])
    return inception(torch.from_numpy(images).permute(0, 3, 1, 2))


def test_the_distance_is_theirs_to_a_millionth_on_the_same_features(features: dict[str, Tensor]) -> None:
    """On as many of them as leave the covariances full rank, where both are exact."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    chosen = features["pool"].std(0).argsort(descending=True)[:4]
    a, b = features["pool"][:6, chosen].double(), features["pool"][6:, chosen].double()
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), verbose=False)
    ours = frechet_distance(statistics(a), statistics(b))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours > 0


def test_spatial_features_are_the_first_channels_by_row_column_channel(
    weights: Path, folders: dict[str, Path], features
) -> None:
    """As ADM's mixed_6/conv: the 1×1 branch of Mixed_6d after its rectifier, of which nothing is negative."""
    inception = Inception(str(weights))
    seen = []
    inception.network.Mixed_6d.branch1x1.bn.register_forward_hook(lambda module, x, out: seen.append(out.clone()))
    image = np.asarray(Image.open(folders["samples"] / "00.png"))
    found = inception(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
    (before,) = seen
    assert before.shape == (1, 192, 17, 17)
    for row, column, channel in ((0, 0, 0), (3, 5, 6), (16, 16, 6)):
        wanted = before[0, channel, row, column].clamp(min=0)
        assert found["spatial"][0, (row * 17 + column) * 7 + channel] == wanted
    assert found["spatial"].shape == (1, 2023)
    torch.testing.assert_close(found["spatial"][0], features["spatial"][0], rtol=1e-3, atol=1e-4)


def test_the_result_is_stamped(judged: Path, weights: Path, folders: dict[str, Path]) -> None:
    result = json.loads((judged / "inception.json").read_text())
    assert (result["samples"]["num"], result["reference"]["num"]) == (12, 14)
    assert (result["samples"]["images"], result["reference"]["images"]) == tuple(map(str, folders.values()))
    assert result["features"]["layers"] == {"pool": 2048, "spatial": 2023}
    assert result["features"]["standard_weights"] is False
    assert "299" in result["features"]["resize"]
    assert result["environment"]["packages"]["torch-fidelity"]
    assert any("not the Inception weights of published FIDs" in note for note in result["warnings"])
    for name, figure in result["figures"].items():
        low, high = figure["interval"] or (figure["value"], figure["value"])
        assert low <= figure["value"] <= high
        assert (figure["interval"] is None) == (name in ("kid", "recall"))
    assert result["figures"]["fid"]["interval"][1] > result["figures"]["fid"]["value"]


def test_saved_statistics_serve_as_a_reference(judged: Path, weights: Path, folders: dict[str, Path], capsys) -> None:
    """Of the same images the distance is 0 but for rounding; what needs images is left out, and said to be."""
    argv = [str(folders["samples"]), "--reference", str(judged / "samples.npz"), "--feature-weights", str(weights), *OPTIONS]
    with pytest.warns(UserWarning, match="12 images in the reference are too few"):
        assert main(["evaluate", *argv, "--out", str(judged / "self")]) == 0
    result = json.loads((judged / "self" / "inception.json").read_text())
    other = json.loads((judged / "inception.json").read_text())
    for name in ("fid", "sfid"):
        assert result["figures"][name]["value"] < 1e-3 * other["figures"][name]["value"]
    assert set(result["left_out"]) == {"kid", "precision", "recall"}
    assert "left out   kid: the reference holds only statistics" in capsys.readouterr().out
    assert result["figures"]["inception_score"] == other["figures"]["inception_score"]


def test_a_sweep_ranks_by_the_same_fid(judged: Path, weights: Path, tmp_path: Path) -> None:
    """The rest of it, by smaller features: tests/experiments/test_sweep_features."""
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), np.uint8))
    config = TrainConfig(data=str(tmp_path / "data.npz"), network="MLP(width=8, depth=1)", steps=2, batch_size=4, ema=[0.9])
    run = train_run(config, tmp_path / "run")
    given = ["--features", "inception", "--feature-weights", str(weights), "--reference", str(judged / "samples.npz")]
    given += ["--num-samples", "20", "--steps", "2"]
    assert main(["sweep", str(run.folder), *given, "--out", str(tmp_path / "sweep")]) == 0
    assert main(["evaluate", str(run.folder), *given, "--solver", "ab3", "--batch-size", "2", "--out", str(tmp_path)]) == 0
    swept, figures = (json.loads((tmp_path / name).read_text()) for name in ("sweep/sweep.json", "inception.json"))
    assert swept["measure"] == "fid"
    assert swept["settings"][0]["value"] == pytest.approx(figures["figures"]["fid"]["value"], rel=1e-6)
    assert (swept["features"], swept["reference"]) == (figures["features"], figures["reference"])
    # Of sFID, which it does not find, nothing is said.
    assert [note.split(" are too few for ")[1].split(":")[0] for note in swept["warnings"][:2]] == ["fid (2048 features)"] * 2


def test_weights_that_are_none_are_refused(weights: Path, folders: dict[str, Path], tmp_path: Path, capsys) -> None:
    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"fc.weight": torch.zeros(2), "more": Runs()}, tmp_path / "evil.pth")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    for name, message in {
        "evil.pth": "cannot be read as weights",
        "other.pth": "no Inception weights with torch-fidelity's keys",
        "missing.pth": "no weights at",
        "weights.bin": "no file of weights",
    }.items():
        argv = ["evaluate", str(folders["samples"]), "--reference", str(folders["reference"]), *OPTIONS]
        assert main([*argv, "--feature-weights", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
