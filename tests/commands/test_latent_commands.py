"""From images to decoded samples on the command line, and what stands in the way said on a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdiff.commands.main import main
from kdiff.data import Normalisation
from kdiff.run.run import load_run

AUTOENCODER = ["--channels", "8", "16", "--latent-channels", "2", "--steps", "12", "--batch-size", "32", "--ema", "0.5"]
RUN = ["--network", "MLP(width=16,depth=1)", "--steps", "6", "--batch-size", "16", "--ema", "0.5", "--sample-every", "3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an autoencoder of digits, latents and a run on them."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train-autoencoder", "digits", *AUTOENCODER]) == 0
        assert (
            main(["encode", "digits", "--autoencoder", "runs/digits_autoencoder", "--posterior", "true", "--flip", "true"]) == 0
        )
        assert main(["train", "--data", "latents/digits", "--data.posterior", "true", *RUN, "--out", "runs/latent"]) == 0
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = Path(shutil.copytree(place, tmp_path / "copy"))
    monkeypatch.chdir(copied)
    return copied


def change_weights(folder: Path) -> None:
    file = folder / "autoencoder" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_in.bias"] += 1
    save_file(weights, file, {"format": "pt"})


def test_everything_is_there(place: Path) -> None:
    run = place / "runs" / "latent"
    assert (place / "runs" / "digits_autoencoder" / "reconstructions.png").exists()
    assert (place / "latents" / "digits" / "reconstructions.png").exists()
    assert (run / "denoising.png").exists()
    assert sorted(path.name for path in (run / "samples").glob("*.png")) == [
        "step_00000003_seed_0.png",
        "step_00000006_seed_0.png",
    ]
    assert json.loads((run / "data.json").read_text())["shape"] == [2, 4, 4]


def test_samples_are_decoded(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has latents, in their own units, and the images that they decode to, in theirs: 0 … 16."""
    monkeypatch.chdir(place)
    assert main(["sample", "runs/latent", "--num", "5", "--solver", "heun", "--steps", "3", "--out", str(place / "few")]) == 0
    assert "few.png" in capsys.readouterr().out
    found, run = load_file(place / "few.safetensors"), load_run("runs/latent")
    assert found["images"].shape == (5, 1, 8, 8)
    assert found["x"].shape == (5, 2, 4, 4)
    expected, y = run.sample(5, solver="heun", steps=3)
    torch.testing.assert_close(found["x"], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(found["y"], y)
    images = Normalisation("range", torch.tensor(8.0), torch.tensor(8.0)).undo(run.decode(found["x"]))
    torch.testing.assert_close(found["images"], images, atol=1e-3, rtol=1e-4)
    assert 0 <= found["images"].min() < found["images"].max() <= 16
    identity = run.latents["autoencoder"]["identity"]
    assert json.loads((place / "few.json").read_text())["autoencoder"]["identity"] == identity


def test_decoded_samples_are_what_is_evaluated(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """As images, not as the latents they come from, which the data's own classifier and own data are not compared with."""
    from kdiff.config.evaluation import EvaluateConfig
    from kdiff.evaluation.image_shards import draw_samples, prepare_samples
    from kdiff.evaluation.images import quantise

    monkeypatch.chdir(place)
    run, config = load_run("runs/latent"), EvaluateConfig(num_samples=6, batch_size=4, steps=3)
    prepare_samples(run, config, tmp_path)
    images = torch.cat(list(draw_samples(run, config, tmp_path).read(4)))
    expected = quantise(run.decode(run.sample(8, steps=3, batch_size=4)[0]), -1, 1)[:6]
    assert images.shape == (6, 1, 8, 8)
    assert (images.int() - expected.int()).abs().max() <= 1
    assert main(["evaluate", "runs/latent", "--features", "classifier", "--out", str(tmp_path / "out")]) == 2
    assert "whose classifier takes no images" in capsys.readouterr().err
    run.autoencoder = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prepare_samples(run, config, tmp_path)


def test_a_wrong_autoencoder_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For sampling, for training (before it begins), and for going on with encoding; the right one goes by its new name."""
    good, bad = here / "good", here / "runs" / "digits_autoencoder"
    shutil.copytree(bad, good)
    change_weights(bad)
    # The copied folders still name the place they were made in: say where the autoencoder is now.
    for argv in (
        ["sample", "runs/latent", "--autoencoder", str(bad)],
        ["encode", "digits", "--autoencoder", str(bad), "--posterior", "true", "--flip", "true"],
    ):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert "is not the one that the latents were made with" in err or "was begun with another autoencoder" in err
        assert len(err.strip().splitlines()) == 1
    assert main(["sample", "runs/latent", "--num", "2", "--steps", "2", "--autoencoder", str(good)]) == 0
    manifest = json.loads((here / "latents" / "digits" / "latents.json").read_text())
    manifest["autoencoder"]["source"] = str(bad)
    (here / "latents" / "digits" / "latents.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main(["train", "--data", "latents/digits", *RUN, "--out", "runs/new"]) == 2
    assert "is not the one that the latents were made with" in capsys.readouterr().err
    assert not (here / "runs" / "new").exists()


def test_a_new_place_that_encode_wrote_down_is_found(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As is advised where the autoencoder is gone; the run itself still names the old place."""
    data = json.loads((here / "runs" / "latent" / "data.json").read_text())
    data["latents"]["autoencoder"]["source"] = "/no/such/place"
    data["latents"]["folder"] = str(here / "latents" / "digits")
    (here / "runs" / "latent" / "data.json").write_text(json.dumps(data))
    moved = shutil.move(here / "runs" / "digits_autoencoder", tmp_path / "moved")
    again = ["encode", "digits", "--posterior", "true", "--flip", "true", "--autoencoder", str(moved)]
    sample = ["sample", "runs/latent", "--num", "2", "--steps", "2"]
    assert main(again) == 0
    assert main(sample) == 0
    shutil.rmtree(here / "latents")
    assert main(sample) == 2
    assert "no autoencoder at /no/such/place" in capsys.readouterr().err


def test_an_autoencoder_that_is_gone_is_said_before_training(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((here / "latents" / "digits" / "latents.json").read_text())
    manifest["autoencoder"]["source"] = "/no/such/place"
    (here / "latents" / "digits" / "latents.json").write_text(json.dumps(manifest))
    assert main(["train", "--data", "latents/digits", *RUN, "--out", "runs/new"]) == 2
    assert "no autoencoder at /no/such/place" in capsys.readouterr().err
    assert not (here / "runs" / "new").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["encode", "digits"], "kdiff encode: error: which autoencoder?"),
        (["encode", "--autoencoder", "x"], "which data? Type kdiff encode DATA"),
        (["train-autoencoder"], "which data? Type kdiff train-autoencoder DATA"),
        (["train-autoencoder", "digits", "--chanels", "8"], "did you mean 'channels'?"),
        (["encode", "digits", "--autoencoder", "nothing"], "no autoencoder at nothing"),
        (["train", "--data", "latents/none"], "'latents/none': no such file or folder"),
    ],
)
def test_mistakes(argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdiff.training.encoding.encode", interrupted)
    assert main(["encode", "digits", "--autoencoder", "a"]) == 130
    again = "continue from the first missing shard with: kdiff encode digits --autoencoder a\n"
    assert again in capsys.readouterr().out
    monkeypatch.setattr("kdiff.training.small_autoencoder.train_autoencoder", interrupted)
    assert main(["train-autoencoder", "digits"]) == 130
    assert "kdiff train-autoencoder digits --resume" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["encode", "train-autoencoder"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--out" in out
    assert "autoencoder" in out
