"""Recipes: what they fill in, what comes before them, and that runs from before there were recipes are "plain"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from kdiff.config.parts import parse
from kdiff.config.recipes import DEFAULT, RECIPES, WEIGHTINGS, chosen_recipe, resolved
from kdiff.config.studies import CompareConfig
from kdiff.config.training import TrainConfig
from kdiff.files.tensors import load_tensors
from kdiff.run.build import build_model
from kdiff.run.checkpoint import record_again, recorded
from kdiff.run.run import load_run, target_at_start
from kdiff.studies.continuing import find_recipe
from kdiff.targets import WEIGHTINGS as MODULES
from kdiff.training.trainer import train_run

SMALL = TrainConfig(data="digits", network="MLP(width=16, depth=1)", steps=6, batch_size=32, log_every=2, checkpoint_every=3)


@pytest.mark.parametrize(
    ("target", "recipe", "part", "weighting"),
    [
        ("learned", "balanced", "learned(init=0.9, rate=10)", "log"),
        ("learned", "plain", "learned(init=0.5, rate=10)", "none"),
        ("learned", "paper", "learned(init=0.5, rate=1)", "none"),
        ("learned(0.7)", "balanced", "learned(0.7, rate=10)", "log"),
        ("learned(rate=2)", "paper", "learned(init=0.5, rate=2)", "none"),
        ("learned(init=0.6, weighting=den)", "balanced", "learned(init=0.6, rate=10)", "den"),
        ("velocity", "balanced", "velocity", "log"),
        ("velocity(weighting=none)", "balanced", "velocity", "none"),
        ("0.8(weighting=log)", "paper", "0.8", "log"),
        ("paper", "balanced", "paper", "none"),
        ("paper(weighting=log)", "plain", "paper", "log"),
        ("learned_of_time", "balanced", "learned_of_time", "log"),
    ],
)
def test_what_a_recipe_fills_in(target, recipe, part, weighting) -> None:
    found, name = resolved(target, recipe)
    wanted = parse(part)
    assert (found.name, found.values, dict(found.options)) == (wanted.name, wanted.values, dict(wanted.options))
    assert name == weighting


def test_names_agree() -> None:
    """config cannot import torch, so the names of weightings stand there too."""
    assert tuple(MODULES) == WEIGHTINGS
    assert {recipe.weighting for recipe in RECIPES.values()} <= set(WEIGHTINGS)


@pytest.mark.parametrize("kind", [TrainConfig, CompareConfig])
def test_refusals(kind) -> None:
    with pytest.raises(ValueError, match="recipe is 'fast'; expected balanced or plain or paper"):
        kind(recipe="fast")
    with pytest.raises(ValueError, match=r"recipe is balanced, .* but loss_space is u; expected --recipe plain"):
        kind(recipe="balanced", loss_space="u")
    named = {"target": "velocity(weighting=snr)"} if kind is TrainConfig else {"targets": ["velocity(weighting=snr)"]}
    with pytest.raises(ValueError, match=r"weighting of .* is 'snr'; expected none, den, log"):
        kind(**named)
    assert chosen_recipe(None, "u") == "plain"
    kind(recipe="paper", loss_space="u")


def test_a_run_records_its_recipe_and_its_running_means(tmp_path: Path) -> None:
    run = train_run(SMALL, tmp_path / "run")
    assert run.config.recipe == DEFAULT == "balanced"
    saved = load_tensors(tmp_path / "run/checkpoints/step_00000006/model.safetensors")
    assert saved["weighting.visits"].sum() == 6 * 32
    assert target_at_start(tmp_path / "run").position == pytest.approx(0.9)
    row = run.metrics()[-1]
    assert row["weighted_loss"] != row["loss"]
    assert row["loss_along"] + row["loss_across"] == pytest.approx(row["loss"], rel=1e-5)


def test_the_running_means_resume_to_the_byte(tmp_path: Path) -> None:
    whole = train_run(SMALL, tmp_path / "whole").folder
    train_run(replace(SMALL, steps=3), tmp_path / "cut")
    train_run(SMALL, tmp_path / "cut", resume=True)
    for name in ("model", "ema_0.999", "optimizer"):
        file = f"checkpoints/step_00000006/{name}.safetensors"
        assert (whole / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()


def test_accumulated_micro_batches_see_the_same_means(tmp_path: Path) -> None:
    """Two micro-batches have their own noise, so only the samples counted are equal, and all of them are counted."""
    run = train_run(replace(SMALL, accumulate=2), tmp_path / "run")
    assert load_tensors(run.folder / "checkpoints/step_00000006/model.safetensors")["weighting.visits"].sum() == 6 * 32


def test_a_run_from_before_recipes_is_plain_and_resumes_as_it_began(tmp_path: Path) -> None:
    whole = train_run(replace(SMALL, recipe="plain"), tmp_path / "whole").folder
    folder = train_run(replace(SMALL, recipe="plain", steps=3), tmp_path / "old").folder
    values = yaml.safe_load((folder / "config.yaml").read_text())
    del values["recipe"]
    (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    checkpoint = folder / "checkpoints" / "step_00000003"
    known = recorded(folder)["config.yaml"]
    record_again(checkpoint, **{"config.yaml": {key: known[key] for key in known if key != "recipe"}})
    assert load_run(folder).config.recipe == "plain"
    run = train_run(SMALL, folder, resume=True)  # the command names no recipe
    assert run.config.recipe == "plain"
    assert run.model.weighting.state_dict() == {}
    file = "checkpoints/step_00000006/model.safetensors"
    assert (whole / file).read_bytes() == (folder / file).read_bytes()
    with pytest.raises(ValueError, match="other settings: recipe"):
        train_run(replace(SMALL, recipe="balanced"), folder, resume=True)


def test_a_comparison_from_before_recipes_goes_on_as_plain(tmp_path: Path) -> None:
    assert find_recipe(CompareConfig(), tmp_path) == "balanced"
    stored = '{"config": {"data": "digits", "seed": 0, "seeds": 1, "targets": ["learned"]}}'
    (tmp_path / "results.json").write_text(stored)
    assert find_recipe(CompareConfig(), tmp_path) == "plain"
    assert find_recipe(CompareConfig(recipe="paper"), tmp_path) == "paper"


def test_exactly_the_papers_step(tmp_path: Path) -> None:
    """recipe="paper" is the v-loss with LearnedK(0.5, 1), to the bit."""
    data = torch.randn(64, 5)
    ours = build_model(replace(SMALL, recipe="paper"), "learned", (5,), 0)
    explicit = build_model(replace(SMALL, recipe="plain"), "learned(init=0.5, rate=1)", (5,), 0)
    losses = []
    for model in (ours, explicit):
        torch.manual_seed(1)
        loss = model.loss(data)
        loss.backward()
        losses.append((loss.item(), model.target.w.grad.item(), model.target.w.item()))
    assert losses[0] == losses[1]


def test_the_file_of_a_run_folder_from_before_recipes_means_plain(tmp_path: Path) -> None:
    """As a command reads it; a file of the user's own without `recipe` means the default."""
    from kdiff.commands.arguments import read_config

    for folder, recipe in (("own", None), ("run", "plain")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.yaml").write_text("steps: 5\n")
        if recipe:
            (tmp_path / folder / "data.json").write_text("{}")
        argv = [str(tmp_path / folder / "config.yaml")]
        assert read_config("train", TrainConfig, argv, "[CONFIG]")[0].recipe == recipe
        assert read_config("train", TrainConfig, [*argv, "--recipe", "paper"], "[CONFIG]")[0].recipe == "paper"


def test_an_interrupted_comparison_from_before_recipes_goes_on_as_plain(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "digits" / "learned" / "seed_0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("data: digits\n")
    assert find_recipe(CompareConfig(), tmp_path) == "plain"
