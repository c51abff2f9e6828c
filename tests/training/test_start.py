"""Training that starts from other weights: what a published model or a run says is said by the run that goes on from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from kdiff.config.studies import CompareConfig
from kdiff.config.training import TrainConfig
from kdiff.networks import to_official
from kdiff.published import as_model
from kdiff.report.page import write_page
from kdiff.run.build import build_model, load_dataset
from kdiff.run.metrics import read_metrics
from kdiff.run.run import load_run
from kdiff.studies.comparison import plan
from kdiff.studies.runner import execute
from kdiff.training.cost import dry_run
from kdiff.training.start import as_text, start_from
from kdiff.training.trainer import train_run

SIZES = "patch_size=2, hidden_size=16, depth=2, num_heads=2"
NETWORKS = {
    "sit": f"DiT({SIZES}, learn_sigma=true, drop_sigma=true)",
    "lightningdit": f"LightningDiT({SIZES})",
    "jit": f"JiT({SIZES}, bottleneck=4, context_tokens=2, context_start=1)",
}
BASE = TrainConfig(data="digits", steps=3, batch_size=8, warmup=0, log_every=1, checkpoint_every=2, ema=[0.5])


def config_of(name: str, **changes) -> TrainConfig:
    return replace(BASE, network=NETWORKS[name], **changes)


def drawn(config: TrainConfig, stirred):
    """A model of these settings whose weights all count."""
    dataset = load_dataset(config)
    model = build_model(config, config.target, dataset.shape, dataset.num_classes, seed=7)
    stirred(model.network)
    return model, dataset


@pytest.fixture
def published(stirred, tmp_path):
    """A published model of each kind, its file, and data to show it."""

    def make(name):
        model, dataset = drawn(config_of(name), stirred)
        path = tmp_path / f"{name}.safetensors"
        save_file(to_official(name, model.network), path)
        return as_model(name, model.network), path, dataset

    return make


def shown(dataset):
    x, y = dataset.part("train")
    return torch.randn(4, *x.shape[1:], generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.8, 0.95]), y[:4]


def velocity(model, dataset):
    z, t, y = shown(dataset)
    return model.eval().velocity(z, t, y=y, min_denominator=0.0)


@pytest.mark.parametrize("name", ["sit", "lightningdit"])
@pytest.mark.parametrize("target", ["learned(rate=1)", "velocity"])
def test_a_velocity_model_says_exactly_what_it_said(published, name, target):
    before, path, dataset = published(name)
    config = config_of(name, target=target, start_from={"name": name, "weights": str(path)})
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    told = start_from(model, config, *dataset.part("train"))
    assert_close(velocity(model, dataset), velocity(before, dataset), rtol=1e-4, atol=1e-5)
    assert model.target.k == pytest.approx(0.5)
    assert (told["factor"], told["architecture"], told["k"]) == (0.5, name, 0.5)
    assert max(told["velocity_change"].values()) < 1e-5


def test_a_data_model_goes_on_as_one_or_begins_close_by(published):
    before, path, dataset = published("jit")
    source = f"jit(weights='{path}')"
    config = config_of("jit", target="data", start_from=source)
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    assert max(start_from(model, config, *dataset.part("train"))["velocity_change"].values()) == 0
    assert_close(velocity(model, dataset), velocity(before, dataset), rtol=0, atol=0)
    config = replace(config, target="learned(init=0.98)")
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    told = start_from(model, config, *dataset.part("train"))
    z, t, y = shown(dataset)
    assert_close(model.eval().predict(z, t, y=y), 0.98 * before.eval().predict(z, t, y=y))
    assert model.target.k == pytest.approx(0.98)
    assert told["velocity_change"][0.1] < 0.1 < told["velocity_change"][0.99]


def test_a_run_says_what_it_started_from_and_resumes_without_it(published, tmp_path):
    _, path, _ = published("sit")
    config = config_of("sit", start_from=f"sit(weights='{path}')")
    train_run(config, tmp_path / "whole")
    train_run(replace(config, steps=2), tmp_path / "parts")
    path.unlink()
    train_run(config, tmp_path / "parts", resume=True)
    told = json.loads((tmp_path / "whole" / "start.json").read_text())
    assert told["source"] == f"sit(weights='{path}')"
    assert json.loads((tmp_path / "parts" / "start.json").read_text()) == told
    whole, parts = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [row["loss"] for row in whole] == [row["loss"] for row in parts]
    again = replace(config, steps=4, start_from=None)
    with pytest.raises(ValueError, match="other settings: start_from"):
        train_run(again, tmp_path / "whole", resume=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Three runs on digits: a velocity, a learned k, a k of time."""
    folder = tmp_path_factory.mktemp("runs")
    for target in ("velocity", "learned(rate=300)", "learned_of_time"):
        train_run(config_of("sit", target=target), folder / target.partition("(")[0])
    return folder


@pytest.mark.parametrize(("source", "target"), [("velocity", "learned"), ("learned", "learned"), ("learned_of_time",) * 2])
def test_a_run_goes_on_from_another(runs, source, target):
    config = config_of("sit", target=target, start_from=str(runs / source))
    dataset = load_dataset(config)
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    told = start_from(model, config, *dataset.part("train"))
    before = load_run(runs / source).model.cpu()
    assert_close(velocity(model, dataset), velocity(before, dataset), rtol=1e-4, atol=1e-6)
    assert told["k"] == pytest.approx(before.target.state()["k"])
    assert (told["step"], told["weights"]) == (3, "ema 0.5")
    raw = replace(config, start_from=f"{runs / source}(ema=none, checkpoint=2)")
    assert start_from(model, raw, *dataset.part("train"))["weights"] == "raw"
    before = load_run(runs / source, 2, "none").model.cpu()
    assert_close(velocity(model, dataset), velocity(before, dataset), rtol=1e-4, atol=1e-6)


TARGETS = """
import torch
from torch import nn

from kdiff.targets import Target

class Basis(Target):
    def __init__(self, size: float = 0.5, moments=None):
        super().__init__()
        self.register_buffer("k_each", torch.linspace(0.1, 0.9, 8) if moments else torch.full((8,), size))

    def coefficients(self, t):
        return self.k_each, 1 - self.k_each

class Ratio(Target):
    def __init__(self, start: float = 2.0):
        super().__init__()
        self.s = nn.Parameter(torch.tensor(start))

    def coefficients(self, t):
        return self.s.exp(), torch.ones_like(self.s)
"""


@pytest.mark.parametrize(("name", "kept", "other"), [("Basis", "k_each", "Basis(0.3)"), ("Ratio", "s", "Ratio(start=0.5)")])
def test_a_target_of_ones_own_class_goes_on_from_a_run_of_its_class(tmp_path, monkeypatch, recwarn, name, kept, other):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kdiff_test_targets.py").write_text(TARGETS)
    run = train_run(config_of("sit", target=f"kdiff_test_targets.{name}"), tmp_path / "run")
    config = config_of("sit", target=f"kdiff_test_targets.{other}", start_from=str(run.folder))
    dataset = load_dataset(config)
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    assert not torch.equal(getattr(model.target, kept), getattr(run.model.target, kept))
    told = start_from(model, config, *dataset.part("train"))
    before = load_run(run.folder).model.cpu()
    assert torch.equal(getattr(model.target, kept), getattr(before.target, kept))
    assert (told["factor"], max(told["velocity_change"].values())) == (1, 0)
    for target, message in {
        "learned": "expected a fixed one, without learned parameters",
        "velocity": "expected the same",
    }.items():
        model = build_model(config, target, dataset.shape, dataset.num_classes)
        with pytest.raises(ValueError, match=message):
            start_from(model, replace(config, target=target), *dataset.part("train"))
    assert not [warning for warning in recwarn if "scalar" in str(warning.message)]


def test_a_checkpoint_of_a_run_is_not_taken_for_a_published_model(runs, tmp_path):
    """Its target stands in the run folder; here it is a learned k."""
    file = runs / "learned" / "checkpoints" / "step_00000003" / "model.safetensors"
    with pytest.raises(
        ValueError, match=r"is a checkpoint of a kdiff run, .*name the run folder, as in --start_from runs/NAME"
    ):
        train_run(config_of("sit", start_from=f"sit('{file}')"), tmp_path / "run")


def test_weights_under_the_prefix_of_a_wrapper(published, tmp_path):
    before, path, dataset = published("sit")
    state = {f"ema_model.{key}": value for key, value in load_file(path).items()}
    torch.save({"ema": {"step": torch.tensor(1), "initted": torch.tensor(True), **state}}, tmp_path / "trainer.pt")
    config = config_of("sit", target="velocity", start_from=f"sit('{tmp_path / 'trainer.pt'}', labels=new)")
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    start_from(model, config, *dataset.part("train"))
    table = before.network.y_embedder.embedding_table.weight
    assert torch.equal(model.network.y_embedder.embedding_table.weight[-1], table[-1])
    assert torch.equal(model.network.x_embedder.proj.weight, before.network.x_embedder.proj.weight)


def test_a_value_without_a_name_is_the_first_option_of_what_training_starts_from(runs, published):
    config = config_of("sit", target="learned", start_from=f"{runs / 'velocity'}(2, ema=none)")
    dataset = load_dataset(config)
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    told = start_from(model, config, *dataset.part("train"))
    assert (told["step"], told["source"]) == (2, f"{runs / 'velocity'}(checkpoint=2, ema='none')")
    _, path, dataset = published("jit")
    config = config_of("jit", target="learned(0.98)", start_from=f"jit('{path}')")
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    assert start_from(model, config, *dataset.part("train"))["source"] == f"jit(weights='{path}')"
    assert model.target.k == pytest.approx(0.98)


def test_labels_of_ones_own(runs, tmp_path, stirred):
    """Images of two classes from a model of ten: new rows for the classes, all else and "no class" as they were."""
    data = str(tmp_path / "two.npz")
    digits = load_dataset(BASE)
    chosen = digits.y < 2
    np.savez(data, x=digits.x[chosen].numpy(), y=digits.y[chosen].numpy())
    config = config_of("sit", start_from=str(runs / "velocity"))
    config = replace(config, data={"name": data, "value_range": [-1, 1]})
    dataset = load_dataset(config)
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    with pytest.raises(
        ValueError, match=r"table of labels .* 11 rows in the weights and 3 in this network. .* other classes, add labels=new"
    ):
        start_from(model, config, *dataset.part("train"))
    own = model.network.y_embedder.embedding_table.weight.detach().clone()
    new = replace(config, start_from=f"{runs / 'velocity'}(labels=new)")
    # Digits run from 0 to 16 and this array, which holds the same numbers after normalisation, from −1 to 1.
    with pytest.raises(
        ValueError, match=r"normalised by range \(shift 0, scale 1\); .* range \(shift 8, scale 8\).*allow='normal"
    ):
        start_from(model, new, *dataset.part("train"), dataset)
    start_from(model, new, *dataset.part("train"))
    table = model.network.y_embedder.embedding_table.weight
    before = load_run(runs / "velocity").model.cpu()
    assert torch.equal(table[:2], own[:2])
    assert torch.equal(table[2], before.network.y_embedder.embedding_table.weight[10])
    z, t, _ = shown(dataset)
    none = {"y": torch.full((4,), 2)}
    said = before.eval().velocity(z, t, y=torch.full((4,), 10))
    assert_close(model.eval().velocity(z, t, **none), said, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"start_from": "nowhere"},
            FileNotFoundError,
            "does not exist; expected a run folder or one of jit, sit, lightningdit",
        ),
        ({"start_from": "sit(weights='none.pt')"}, FileNotFoundError, "no weights at none.pt"),
        ({"start_from": "sit('none.pt')"}, FileNotFoundError, "no weights at none.pt"),
        ({"start_from": "sit"}, ValueError, "sit needs a value for weights; its options are weights, entry, labels"),
        ({"start_from": "sit(weights='a.pt', size=3)"}, ValueError, "sit has no option size"),
        ({"start_from": "{velocity}(step=3)"}, ValueError, "no option step; its options are checkpoint, ema, labels, allow"),
        ({"start_from": "{velocity}(7)"}, ValueError, "no checkpoint of step 7; it has: 2, 3"),
        ({"start_from": "{velocity}(allow=data)"}, ValueError, "allow is data in start_from; expected some of classes, norm"),
        ({"start_from": "{velocity}(labels=old)"}, ValueError, "labels is 'old' in start_from; expected same, or new"),
        ({"start_from": "{velocity}", "target": "data"}, ValueError, "trained at k = 0.5, and the target has k = 1"),
        ({"start_from": "{velocity}", "target": "learned(init=0.7)"}, ValueError, "leave init out"),
        ({"start_from": "{velocity}", "target": "learned_pair"}, ValueError, "target is LearnedPair.*the same, or learned"),
        ({"start_from": "{learned_of_time}", "target": "velocity"}, ValueError, "belong to the target LearnedKOfTime"),
        ({"start_from": "{velocity}", "noise_scale": 2.0}, ValueError, "noise_scale is 2.0; expected 1.0"),
        (
            {"start_from": "{velocity}", "path": "variance_preserving"},
            ValueError,
            "path is variance_preserving; expected linear",
        ),
        ({"start_from": "{velocity}", "network": NETWORKS["jit"]}, ValueError, "holds the weights of another network"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(runs, tmp_path, changes, error, message):
    changes["start_from"] = changes["start_from"].replace("{", f"{runs}/").replace("}", "")
    with pytest.raises(error, match=message):
        train_run(replace(config_of("sit"), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_of_ones_own_on_another_network_are_refused_like_others(runs, tmp_path):
    config = config_of("sit", start_from=f"{runs / 'velocity'}(labels=new)")
    config = replace(config, network=str(config.network).replace("hidden_size=16", "hidden_size=32"))
    with pytest.raises(ValueError, match="holds the weights of another network"):
        train_run(config, tmp_path / "run")


def images(folder: Path, names: str, **options) -> dict:
    """Data of eight tiny images in a folder for each class; the first class is bright."""
    for number, name in enumerate(names.split()):
        (folder / name).mkdir(parents=True)
        for index in range(20):
            Image.fromarray(np.random.default_rng(index).integers(0, 100 + 50 * number, (4, 4), np.uint8)).save(
                folder / name / f"{index}.png"
            )
    return {"name": str(folder), **options}


SMALL = TrainConfig(network="MLP(width=8, depth=1)", steps=1, batch_size=8, ema=[0.5], split_loss=False)


@pytest.fixture(scope="module")
def cats(tmp_path_factory) -> Path:
    """A run on images of cats and dogs."""
    folder = tmp_path_factory.mktemp("cats")
    train_run(replace(SMALL, data=images(folder / "pets", "cat dog")), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("changes", "refused", "allowed"),
    [
        ({"classes": "dog zebra"}, "number 0 is 'dog' and was 'cat', 1 is 'zebra' and was 'dog'. .* add labels=new", "classes"),
        ({"classes": "cat dog emu"}, "table of labels .* has 3 rows in the weights and 4", None),
        (
            {"value_range": [0, 1]},
            r"range \(shift 0.5, scale 0.5\); those of .* by range \(shift 127.5, scale 127.5\)",
            "normalisation",
        ),
        ({"normalise": "standard"}, r"by standard \(shift [\d.]+, scale [\d.]+\); .* by range", "normalisation"),
        ({"normalise": "channels"}, r"by channels \(shift [\d.]+, scale [\d.]+\); .* by range", "normalisation"),
        ({"normalise": "none"}, "the data are normalised by none; those of .* by range", "normalisation"),
    ],
)
def test_data_of_another_meaning_are_refused_unless_allowed(cats, tmp_path, changes, refused, allowed):
    config = replace(SMALL, data=images(tmp_path / "pets", changes.pop("classes", "cat dog")), start_from=str(cats))
    if changes:
        dataset = load_dataset(config)
        raw = dataset.normalisation.undo(dataset.x[:]).numpy() / (255 if "value_range" in changes else 1)
        np.savez(tmp_path / "x.npz", x=raw, y=dataset.y)
        kind = {"normalise": "range"} if "value_range" in changes else {}
        config = replace(config, data={"name": str(tmp_path / "x.npz"), **kind, **changes})
    with pytest.raises(ValueError, match=refused) as caught:
        train_run(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    if allowed is None:
        return
    typed = f"{cats}(allow='{allowed}')"
    assert f'type --start_from "{typed}"' in str(caught.value)
    train_run(replace(config, start_from=typed), tmp_path / "run")
    began = json.loads((tmp_path / "run" / "start.json").read_text())
    assert began["allowed"] == [allowed]
    assert f"the velocity is the same; other than in its training, as allowed: {allowed}" in as_text(began)


def test_other_images_of_the_same_classes_go_on_without_a_word(cats, tmp_path):
    config = replace(SMALL, data=images(tmp_path / "more", "cat dog", channels="L"), start_from=str(cats))
    began = json.loads((train_run(config, tmp_path / "run").folder / "start.json").read_text())
    assert as_text(began).endswith("the velocity is the same")
    assert not began.keys() & {"allowed", "not_compared"}


def test_what_could_not_be_compared_is_said(cats, published, tmp_path):
    dataset = load_dataset(replace(SMALL, data=images(tmp_path / "pets", "cat dog")))
    np.savez(tmp_path / "x.npz", x=dataset.normalisation.undo(dataset.x[:]).numpy() + 1, y=dataset.y)
    data = {"name": str(tmp_path / "x.npz"), "value_range": [0, 255], "normalise": "range"}
    config = replace(SMALL, data=data, start_from=str(cats))
    began = json.loads((train_run(config, tmp_path / "run").folder / "start.json").read_text())
    assert as_text(began).endswith("; not compared: the names of the classes, which are not recorded for x")
    _, path, _ = published("sit")
    config = config_of("sit", start_from=f"sit('{path}')")
    digits = load_dataset(config)
    model = build_model(config, config.target, digits.shape, digits.num_classes)
    text = as_text(start_from(model, config, *digits.part("train"), digits))
    assert text.endswith("; not compared: classes and normalisation of the data, which published weights do not record")


def test_options_of_a_network_that_no_shape_shows_are_compared_by_its_output(published, tmp_path):
    _, path, _ = published("sit")
    first = train_run(config_of("sit", target="velocity", start_from=f"sit('{path}')"), tmp_path / "first").folder
    heads = NETWORKS["sit"].replace("num_heads=2", "num_heads=4")
    config = replace(config_of("sit", start_from=str(first)), network=heads)
    with pytest.raises(ValueError, match=r"num_heads=4.*; expected .*num_heads=2.*the output changes by .*allow='network'"):
        train_run(config, tmp_path / "run")
    run = train_run(replace(config, start_from=f"{first}(allow=network)"), tmp_path / "run")
    assert "the velocity changes by at most" in as_text(json.loads((run.folder / "start.json").read_text()))
    same = replace(config, network=NETWORKS["sit"].replace("num_heads=2", "num_heads=2, mlp_ratio=4.0"))
    dataset = load_dataset(same)
    model = build_model(same, same.target, dataset.shape, dataset.num_classes)
    assert "allowed" not in start_from(model, same, *dataset.part("train"), dataset)


def test_a_dry_run_begins_with_the_weights_too(runs, capsys):
    config = config_of("sit", target="learned", start_from=str(runs / "velocity"))
    dry_run(config)
    assert f"starting from {runs / 'velocity'} at k = 0.5; the velocity" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"trained at k = 0\.5, and the target has k = 1"):
        dry_run(replace(config, target="data"))


def test_what_it_starts_from_is_missed_before_the_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("kdiff.run.build.load_dataset", lambda config: pytest.fail("the data were read"))
    with pytest.raises(FileNotFoundError, match=r"no weights at none\.pt"):
        train_run(config_of("sit", start_from="sit(weights='none.pt')"), tmp_path / "run")


def test_the_page_of_a_run_says_where_k_began(runs, tmp_path):
    """In the weights that it started from, not where the configuration would have begun."""
    first = train_run(config_of("sit", target="learned(init=0.8)"), tmp_path / "first")
    run = train_run(config_of("sit", target="learned", start_from=str(first.folder)), tmp_path / "second")
    text = write_page(run.folder).read_text(encoding="utf-8")
    began = json.loads((run.folder / "start.json").read_text())["k"]
    assert began == pytest.approx(first.model.target.k, abs=1e-6) != 0.5
    assert f"it began at {began:.4g}" in text
    assert f"starting from {first.folder}" in text


def test_a_comparison_goes_on_from_one_run(runs, tmp_path):
    """What one of its targets cannot go on from is refused before any of them is trained."""
    kind = {"network": NETWORKS["sit"], "start_from": str(runs / "velocity"), "steps": 1, "batch_size": 8, "ema": [0.5]}
    config = CompareConfig(**kind, targets=["velocity", "learned"], seeds=1, num_samples=1)
    _, jobs = plan(config, tmp_path / "sound")
    for job in jobs:
        execute(replace(job, num_samples=0))
        assert json.loads((job.folder / "start.json").read_text())["source"] == str(runs / "velocity")
    one, other = (read_metrics(job.folder / "metrics.jsonl")[0]["loss"] for job in jobs)
    assert one == pytest.approx(other)  # of the same step on the same weights: what both say is the same
    with pytest.raises(ValueError, match=r"trained at k = 0\.5, and the target has k = 1"):
        plan(replace(config, targets=["velocity", "data"]), tmp_path / "unsound")
    assert not (tmp_path / "unsound").exists()


def test_published_weights_of_another_architecture_or_path_are_refused(published):
    _, path, dataset = published("jit")
    for changes, message in [
        ({"start_from": f"sit(weights='{path}')"}, "'sit' does not describe this JiT"),
        ({"start_from": f"jit(weights='{path}')"}, "give a k close to it: init=0.99"),
        ({"start_from": f"jit(weights='{path}')", "path": "variance_preserving"}, "jit was trained on the linear path"),
    ]:
        config = config_of("jit", **changes)
        model = build_model(config, config.target, dataset.shape, dataset.num_classes)
        with pytest.raises(ValueError, match=message):
            start_from(model, config, *dataset.part("train"))


@pytest.mark.parametrize(("classes", "null_rate"), [("dog zebra", 0.1), ("cat dog emu", 0.1), ("dog zebra", 0.0)])
def test_with_new_rows_the_velocity_is_measured_without_a_class(cats, tmp_path, classes, null_rate):
    config = replace(SMALL, data=images(tmp_path / "pets", classes), null_rate=null_rate)
    dataset = load_dataset(config)
    changes = []
    for kept in (True, False):
        new = replace(config, start_from=f"{cats}(labels=new)")
        model = build_model(new, new.target, dataset.shape, dataset.num_classes, seed=7)
        run = load_run(cats)
        with torch.no_grad():
            run.model.network.output.weight.normal_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kdiff.training.start.load_run", lambda *_, run=run, **__: run)
            if not kept:  # as if the row for "no class" had not been kept
                patch.setattr(
                    "kdiff.training.start._labelled",
                    lambda state, network, new: state | {"label.weight": network.label.weight.detach().clone()},
                )
            told = start_from(model, new, *dataset.part("train"), dataset)
        changes.append(max(told["velocity_change"].values()))
        assert "the velocity without a class " in as_text(told)
        assert as_text(told).endswith(", and the rows of the classes are new")
    assert changes[0] == 0
    assert changes[1] > 1e-3


@pytest.mark.parametrize("options", ["", "(labels=new)", "(allow=classes)"])
def test_weights_with_labels_do_not_fit_data_without_labels_nor_the_reverse(cats, published, tmp_path, options):
    data = images(tmp_path / "pets", "cat dog")
    bare = replace(SMALL, data={**data, "labels": False})
    without = train_run(bare, tmp_path / "without").folder
    _, path, _ = published("sit")
    for config, source, found in (
        (bare, cats, r"the data have 0 classes; those of .* have 2, and .* 1 not in this network \(label\.weight\)"),
        (
            replace(SMALL, data=data),
            without,
            r"the data have 2 classes; those of .* have 0, and .* 1 missing \(label\.weight\)",
        ),
    ):
        with pytest.raises(ValueError, match=rf"^{found}\. Training cannot start from them; start from weights for data like"):
            train_run(replace(config, start_from=f"{source}{options}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    if "allow" not in options:
        config = config_of("sit", start_from=f"sit('{path}'{options.replace('(', ', ').replace(')', '')})")
        model = build_model(config, config.target, (1, 8, 8), 0)
        with pytest.raises(ValueError, match=r"the data have 0 classes; the weights in .* are for 10\. Training cannot start"):
            start_from(model, config, torch.zeros(2, 1, 8, 8), None)


def test_samples_of_another_shape_are_named_before_the_weights(cats, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).uniform(-1, 1, (20, 1, 6, 6)), y=np.arange(20) % 2)
    config = replace(SMALL, data={"name": str(tmp_path / "x.npz"), "value_range": [-1, 1]}, start_from=str(cats))
    with pytest.raises(ValueError, match=r"^the samples .* \(1, 6, 6\); those of .* have \(1, 4, 4\), and .* 3 of another"):
        train_run(config, tmp_path / "run")


def test_the_change_by_another_network_is_measured_with_new_rows_too(runs):
    """The network of the run itself is compared, not a copy of the new one."""
    heads = NETWORKS["sit"].replace("num_heads=2", "num_heads=4")
    run = load_run(runs / "velocity")
    torch.manual_seed(0)
    for parameter in run.model.network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    config = replace(config_of("sit", start_from=f"{runs / 'velocity'}(labels=new, allow=network)"), network=heads)
    dataset = load_dataset(config)
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdiff.training.start.load_run", lambda *_, **__: run)
        told = start_from(model, config, *dataset.part("train"), dataset)
    assert told["allowed"] == ["network"]
    assert max(told["velocity_change"].values()) > 1e-3
