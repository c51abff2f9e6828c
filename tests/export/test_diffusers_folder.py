"""The folder of an exported run, and the command that writes it: loaded, saved again, described; mistakes refused."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from torch import nn

import kdiff
from kdiff.commands.main import main
from kdiff.export.diffusers_folder import as_pipeline, export, push
from kdiff.export.model_card import first_classes
from kdiff.run.run import load_run

pytestmark = pytest.mark.usefixtures("code_cache")
MLP = "MLP(width=16, depth=1)"


def test_another_path_is_refused(trained, tmp_path) -> None:
    class Bent(kdiff.GaussianPath):
        alpha = sigma = alpha_dot = sigma_dot = lambda self, t: t

    folder = trained(network=MLP, steps=8)
    run = load_run(folder)
    run.config.path = f"{__name__}.Bent"
    sys.modules[__name__].Bent = Bent  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"Bent.*LinearPath"):
        export(run, tmp_path / "pipeline")
    assert not (tmp_path / "pipeline").exists()


@pytest.mark.parametrize(("recipe", "target"), [("plain", "velocity"), ("paper", "learned")])
def test_a_run_of_any_recipe_is_exported(recipe, target, trained) -> None:
    run = load_run(trained(network=MLP, steps=8, recipe=recipe, target=target))
    transformer = as_pipeline(run).transformer
    assert str(transformer.model.target) == str(run.model.cpu().target)
    assert transformer.model.state_dict().keys() == run.model.state_dict().keys()


# What is in the folder


def test_the_folder_says_what_it_is(run, tmp_path) -> None:
    folder = export(run, tmp_path / "pipeline")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "kdiff.json",
        "model_index.json",
        "pipeline.py",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "transformer/kdiff_transformer.py",
    }
    facts = json.loads((folder / "kdiff.json").read_text())
    assert (facts["step"], facts["weights"]) == (30, "ema 0.9")
    assert facts["target"]["k"] == pytest.approx(run.model.target.k)
    assert facts["sigmas"] == pytest.approx([1 - i / 50 for i in range(50)])
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(weights["model.target.w"], run.model.target.w.detach())
    assert not [name for name in names if str(run.folder.parent) in (folder / name).read_text(errors="ignore")]


def test_the_card_can_be_read_by_the_hub(run, tmp_path) -> None:
    card = ModelCard.load(export(run, tmp_path / "pipeline", place="me/digits") / "README.md")
    assert card.data.library_name == "diffusers"
    assert "kdiff" in card.data.tags
    assert card.data.license is None
    for piece in ("me/digits", "30 steps", "ema 0.9", f"k = {run.model.target.k:.4g}", "1 × 8 × 8", "pip install kdiff"):
        assert piece in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_the_names_of_classes_stand_by_their_numbers(run, tmp_path) -> None:
    named = copy.copy(run)
    named.data = {**run.data, "class_names": [f"digit {i}" for i in range(10)]}
    folder = export(named, tmp_path / "pipeline")
    facts = json.loads((folder / "kdiff.json").read_text())
    assert facts["data"]["classes"] == {str(i): f"digit {i}" for i in range(10)}
    assert "- Classes, for `class_labels`: 0: digit 0, 1: digit 1, " in (folder / "README.md").read_text()
    assert ModelCard.load(folder / "README.md").data.library_name == "diffusers"
    assert "Classes, for" not in (export(run, tmp_path / "unnamed") / "README.md").read_text()


def test_of_very_many_classes_the_first_are_named() -> None:
    assert first_classes(["a\nb", "c"], "data.json") == "0: a b, 1: c"
    assert first_classes([f"n{i}" for i in range(1000)], "data.json").endswith(", 199: n199, … 1000 in all (see data.json)")


def test_pictures_without_a_value_range_are_stretched_with_a_word(trained, tmp_path, capsys) -> None:
    data = kdiff.data.load("digits")
    np.savez(tmp_path / "pale.npz", x=(0.45 + 0.35 * data.x.numpy()).astype(np.float32), y=data.y.numpy())
    folder = trained(data=str(tmp_path / "pale.npz"), network=MLP, steps=2)
    note = "pale has no value_range, so black and white are taken as 0.1 and 0.8, the extremes of the training part"
    with pytest.warns(
        UserWarning, match=f"{re.escape(note)}: output_type pil and np are stretched to them; train on data with a"
    ):
        assert main(["export", str(folder), "--out", str(tmp_path / "pipeline")]) == 0
    assert json.loads((tmp_path / "pipeline" / "kdiff.json").read_text())["black_and_white"] == note
    assert note in (tmp_path / "pipeline" / "README.md").read_text()


def test_the_weights_that_are_asked_for_are_exported(trained, tmp_path, exported) -> None:
    raw = load_run(trained(), ema="none")
    pipeline = exported(raw, tmp_path)
    assert torch.equal(pipeline.transformer.model.target.w, raw.model.target.w)
    assert not torch.equal(raw.model.target.w, load_run(trained()).model.target.w)


def test_a_loaded_pipeline_can_be_saved_again(run, pipeline, tmp_path, loaded, start) -> None:
    pipeline.save_pretrained(tmp_path / "again")
    noise, y = start(run)
    options = {"latents": noise, "num_inference_steps": 3, "output_type": "latent"}
    assert torch.equal(loaded(tmp_path / "again")(y, **options).images, pipeline(y, **options).images)
    with pytest.raises(ValueError, match="push-to-hub"):
        pipeline.save_pretrained(tmp_path / "again", push_to_hub=True)


def test_without_kdiff_the_error_says_what_to_install(run, tmp_path, monkeypatch, loaded) -> None:
    folder = export(run, tmp_path / "pipeline")
    monkeypatch.setitem(sys.modules, "kdiff.export.pipeline", None)
    with pytest.raises(ImportError, match="pip install kdiff"):
        loaded(folder)


def test_code_is_run_only_where_that_is_allowed(run, tmp_path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(export(run, tmp_path / "pipeline"))


# Latents


def test_latents_are_decoded(trained, tmp_path_factory, tmp_path, loaded, start) -> None:
    """By the run's autoencoder, which is in the folder."""
    place = tmp_path_factory.mktemp("latents")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    module: nn.Module = AutoencoderKL(1, 1, block_out_channels=(4, 8), norm_num_groups=4, latent_channels=2, **blocks)
    module.save_pretrained(place / "autoencoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["encode", "digits", "--autoencoder", "autoencoder"]) == 0
    run = load_run(trained(data=str(place / "latents" / "digits"), network=MLP, steps=8))
    folder = export(run, tmp_path / "pipeline")
    shutil.rmtree(place / "autoencoder")
    noise, y = start(run)
    decoded = run.decode(run.normalisation.undo(run.model.sample(noise, solver="euler", steps=5, last_step="data", y=y)))
    images = loaded(folder)(y, latents=noise, num_inference_steps=5, output_type="pt").images
    torch.testing.assert_close(images, decoded, rtol=0, atol=1e-5)
    array = loaded(folder)(y, latents=noise, num_inference_steps=5, output_type="np").images
    np.testing.assert_allclose(array[..., 0], (decoded[:, 0].numpy() + 1) / 2, atol=1e-5)
    assert "2 × 4 × 4" in (folder / "README.md").read_text()
    assert str(place) not in (folder / "vae" / "config.json").read_text()


# The command


def test_the_command(trained, tmp_path, capsys, monkeypatch) -> None:
    folder = shutil.copytree(trained(), tmp_path / "run")
    assert main(["export", str(folder)]) == 0
    assert "from_pretrained" in capsys.readouterr().out
    assert (folder / "diffusers" / "model_index.json").is_file()
    (folder / "diffusers" / "old.txt").write_text("gone")
    assert main(["export", str(folder), "--to", "diffusers", "--ema", "none"]) == 0
    assert json.loads((folder / "diffusers" / "kdiff.json").read_text())["weights"] == "raw"
    assert not (folder / "diffusers" / "old.txt").exists()
    assert [path.name for path in folder.iterdir() if "partial" in path.name] == []
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **options: calls.append((name, options)) or f"hub/{name}")
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: calls.append(("upload", options)))
    assert main(["export", str(folder), "--push-to-hub", "me/digits"]) == 0
    assert capsys.readouterr().out.endswith("hub/me/digits\n")
    assert calls[0] == ("me/digits", {"private": True, "exist_ok": True})
    assert calls[1][1]["folder_path"] == folder / "diffusers"
    assert "me/digits" in (folder / "diffusers" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "onnx"], "diffusers"),
        (["--ema", "0.5"], "no averages with decay 0.5"),
        (["--checkpoint", "7"], "no checkpoint of step 7"),
        (["--out", "full"], "already exists and is not an export of kdiff"),
    ],
)
def test_mistakes_of_the_command(trained, tmp_path, capsys, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    assert main(["export", str(trained()), *options]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"
    assert not (trained() / "diffusers").exists()


def test_no_run_is_named(capsys) -> None:
    assert main(["export"]) == 2
    assert "which run?" in capsys.readouterr().err


def test_a_push_that_fails_says_that_the_folder_is_written(tmp_path, monkeypatch) -> None:
    def refuse(self: Any, name: str, **options: Any) -> None:
        raise OSError("no way out")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(ValueError, match=r"is written, but could not be uploaded to 'me/digits': no way out"):
        push(tmp_path, "me/digits")


def test_the_card_names_a_network_of_the_authors_own(trained, tmp_path) -> None:
    run = load_run(trained(network="kdiff.networks.mlp.MLP(width=16, depth=1)", steps=3))
    assert (
        "`kdiff.networks.mlp.MLP`, which must be importable" in (export(run, tmp_path / "pipeline") / "README.md").read_text()
    )
    run = load_run(trained(network=MLP, steps=8))
    assert "importable" not in (export(run, tmp_path / "pipeline") / "README.md").read_text()
