"""Parts named in text: every written form is read, every label can be written back, and mistakes are named."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from typing import Any

import pytest

from kdiff import FixedK, GeneralTarget, LearnedK, LogitNormal, Uniform, VariancePreservingPath, load_data
from kdiff.config.parts import Part, data_name, parse, resolve
from kdiff.config.plain import as_dict, from_dict
from kdiff.config.training import TrainConfig
from kdiff.networks import MLP
from kdiff.run.build import build, build_model, load_dataset

MODULE = """
from torch.nn import Module

class Net(Module):
    def __init__(self, shape, depth=1):
        super().__init__()
        self.given = {"shape": shape, "depth": depth}

class Any(Module):
    def __init__(self, **options):
        super().__init__()
        self.given = options

class Several(Module):
    def __init__(self, dim: int, *widths: int, **options: float):
        super().__init__()
        self.given = {"dim": dim, "widths": widths, **options}

class Nothing:
    pass

class Positional(Module):
    def __init__(self, shape, /):
        self.given = {"shape": shape}

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    package = tmp_path / "kdiff_test_parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(MODULE)
    (package / "needy.py").write_text("import kdiff_no_such_module\n")
    (package / "broken.py").write_text("import math\nmath.no_such_function\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "kdiff_test_parts"
    for name in [name for name in sys.modules if name.startswith("kdiff_test_parts")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("learned", "learned", {}),
        (" learned ", "learned", {}),
        ("learned()", "learned", {}),
        ("learned(rate=1)", "learned", {"rate": 1}),
        ("learned(init=0.25, rate=1e2)", "learned", {"init": 0.25, "rate": 100.0}),
        ("spiral(embedding=curved)", "spiral", {"embedding": "curved"}),
        ("spiral(embedding='curved', noise=-0.5)", "spiral", {"embedding": "curved", "noise": -0.5}),
        ("uniform(stratified=True)", "uniform", {"stratified": True}),
        ("uniform(stratified=false)", "uniform", {"stratified": False}),
        ("images.npz(labels=null, normalise=none)", "images.npz", {"labels": None, "normalise": "none"}),
        ("images.npz(value_range=(0, 255), key='a, (b)')", "images.npz", {"value_range": (0, 255), "key": "a, (b)"}),
        ("pack.nets.Net(sizes=[1, 2], options={'a': 1})", "pack.nets.Net", {"sizes": [1, 2], "options": {"a": 1}}),
        ("sim.h5(condition=[params, 'a b', 3])", "sim.h5", {"condition": ["params", "a b", 3]}),
        ("sim.h5(condition={params: vector})", "sim.h5", {"condition": {"params": "vector"}}),
        ("data (1).npz", "data (1).npz", {}),
        ({"name": "MLP", "width": 512}, "MLP", {"width": 512}),
        ({"name": "MLP"}, "MLP", {}),
        (0.5, "0.5", {}),
        (1, "1", {}),
        ("0.50", "0.5", {}),
        ("0.9(min_denominator=0.1)", "0.9", {"min_denominator": 0.1}),
        (Part("MLP", {"width": 3}), "MLP", {"width": 3}),
    ],
)
def test_every_written_form_is_read_and_its_label_reads_back(spec, name, options):
    part = parse(spec)
    assert (part.name, part.options) == (name, options)
    assert [type(value) for value in part.options.values()] == [type(value) for value in options.values()]
    assert parse(str(part)) == part == parse(part)
    assert parse({"name": part.name, **part.options}) == part


@pytest.mark.parametrize("k", [0, 1, 0.5, 1 / 3, 0.9999999, 1 - 2**-53, 1e-12, 0.1 + 0.2])
def test_a_number_is_a_fixed_k_to_its_last_digit(k):
    for spec in (k, repr(k), str(parse(k))):
        target = build("target", spec)
        assert isinstance(target, FixedK)
        assert target.k == k


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "  ",
        "(rate=1)",
        "learned(rate=)",
        "learned(rate=1, rate=2)",
        "learned(rate=1)(init=0.5)",
        "learned(rate=1)+(2)",
        "learned(**{'rate': 1})",
        "learned(rate=__import__('os'))",
        "learned(rate=a.b)",
        "learned(rate=[a.b])",
        "learned(rate={**{'a': 1}})",
        "learned(rate=1; init=2)",
    ],
)
def test_text_that_is_no_part_is_refused(spec):
    with pytest.raises(ValueError, match=r"cannot read .*expected name\(option=value"):
        parse(spec)


@pytest.mark.parametrize(("spec", "message"), [(None, "names no part"), (True, "names no part"), ({"width": 1}, "has no name")])
def test_other_things_are_no_part(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)


def test_short_names_build_what_they_say():
    assert [build("target", name).k for name in ("noise", "velocity", "data")] == [0.0, 0.5, 1.0]
    assert build("target", "fixed(k=0.7)").k == 0.7
    learned = build("target", "learned(init=0.25, rate=1)")
    assert isinstance(learned, LearnedK)
    assert learned.k == pytest.approx(0.25)
    assert learned.rate == 1
    assert isinstance(build("target", {"name": "general", "a": 1, "b": 1}), GeneralTarget)
    assert isinstance(build("path", "variance_preserving"), VariancePreservingPath)
    assert isinstance(build("timesteps", "uniform"), Uniform)
    law = build("timesteps", "logit_normal(mean=-0.8, std=0.8, stratified=true)")
    assert isinstance(law, LogitNormal)
    assert (law.mean, law.std, law.stratified) == (-0.8, 0.8, True)
    network = build("network", "MLP(width=8)", shape=(3,), num_classes=0)
    assert isinstance(network, MLP)
    assert network.input.weight.shape == (8, 3)


def test_values_without_a_name_come_first_in_the_signature():
    def grid(steps, shift, rho=7):
        return steps, shift, rho

    assert resolve("grid", "mine(5, 0.3)", {"mine": grid})() == (5, 0.3, 7)
    assert resolve("grid", "mine(0.3, rho=2)", {"mine": partial(grid, 5)})() == (5, 0.3, 2)
    assert str(parse("mine(0.3, rho=2)")) == "mine(0.3, rho=2)" == parse("mine(0.3, rho=2)").plain()
    with pytest.raises(ValueError, match=r"the arguments of mine\(1, 2, 3, 4\) do not fit: too many positional arguments"):
        resolve("grid", "mine(1, 2, 3, 4)", {"mine": grid})


def test_a_part_reads_back_from_plain_data():
    for spec in ("MLP", "0.9", "learned(rate=1)", {"name": "MLP", "width": 8}, "shifted(0.3)", 1e-12):
        assert parse(parse(spec).plain()) == parse(spec)


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("target", "lerned", "no target is called 'lerned' .did you mean 'learned'"),
        ("target", "spam", r"no target is called 'spam'\. Known: noise, velocity, data, fixed, learned"),
        ("network", "MPL", "did you mean 'MLP'"),
        ("target", "learned(speed=1)", "learned has no option speed; its options are init, rate"),
        ("network", "MLP(widht=8)", "did you mean width.{2}; its options are width, depth"),
        ("path", "linear(a=1)", "it takes none"),
        ("target", "learned(init=2)", "init is 2"),
        ("target", "learned(init=high)", "init of learned is 'high'; expected a number"),
        ("target", "learned(rate=inf)", "rate of learned is 'inf'; expected a number"),
        ("target", "learned(high)", "init of learned is 'high'; expected a number"),
        ("target", "learned(init=[0.5])", r"init of learned is \[0.5\]; expected a number, as in learned\(init=1\)"),
        ("target", "fixed", "fixed needs a value for k"),
        ("target", 1.5, "k is 1.5"),
        ("target", "nan", "k is nan"),
        ("target", "noise(k=0.3)", "gives k twice"),
        ("target", "0.3(k=0.4)", "gives k twice"),
        ("network", "no_such_package.nets.Net", "cannot import 'no_such_package.nets.Net'.*PYTHONPATH"),
        ("network", "math.Net", "module 'math' has no 'Net'"),
        ("network", "math.pi", "math.pi is an object of the class float; expected the class path of a subclass of Module"),
        ("network", "./nets.Net", "a class path .package.module.Class"),
        ("network", "..nets.Net", "a class path .package.module.Class"),
        ("network", ".Net", "a class path .package.module.Class"),
    ],
)
def test_mistakes_are_named(kind, spec, message):
    with pytest.raises(ValueError, match=message):
        build(kind, spec, shape=(3,), num_classes=2)


def test_values_go_to_the_first_arguments_that_the_caller_does_not_give(module):
    assert build("network", f"{module}.nets.Net(4)", shape=(3,)).given == {"shape": (3,), "depth": 4}
    assert build("network", "MLP(8)", shape=(3,), num_classes=2).input.weight.shape == (8, 3)
    with pytest.raises(ValueError, match=r"Net\(4, 5\) do not fit: too many positional arguments; its options are depth"):
        build("network", f"{module}.nets.Net(4, 5)", shape=(3,))
    with pytest.raises(ValueError, match="multiple values for argument 'depth'"):
        build("network", f"{module}.nets.Net(4, depth=5)", shape=(3,))


@pytest.mark.parametrize("kind", ["network", "target", "path", "timesteps"])
def test_an_object_of_another_kind_is_refused(module, kind):
    wanted = {"network": "Module", "target": "Target", "path": "GaussianPath", "timesteps": "Timesteps"}[kind]
    message = f"{module}.nets.Nothing is the class Nothing; expected the class path of a subclass of {wanted}"
    with pytest.raises(ValueError, match=message):
        build(kind, f"{module}.nets.Nothing", shape=(3,))


def test_values_without_a_name_reach_the_data_of_a_configuration():
    config = TrainConfig(data="moons(50, 3)")
    assert load_dataset(config).x.shape == load_data("moons(num_samples=50, ambient_dim=3)").x.shape == (50, 3)
    with pytest.raises(ValueError, match="too many positional arguments; it takes none"):
        load_dataset(TrainConfig(data="digits(50)"))


@pytest.mark.parametrize("name", ["JiT-B/16", "DiT(patch_size=1)"])
def test_a_network_for_images_says_so_of_other_samples(name):
    with pytest.raises(ValueError, match=r"is a network for images \(C, H, W\), signals .* the samples have the shape \(5,\)"):
        build_model(TrainConfig(network=name), "learned", (5,), 0)
    with pytest.raises(ValueError, match=r"volumes \(C, D, H, W\), but the samples have the shape \(1, 2, 3, 4, 5\)"):
        build_model(TrainConfig(network=name), "learned", (1, 2, 3, 4, 5), 0)


def test_matrices_are_signals_and_whoever_means_images_is_told():
    with pytest.raises(ValueError, match=r"image_size is 8 with patch_size 16.*save grey images as \(N, 1, H, W\), by images"):
        build_model(TrainConfig(network="JiT-B/16"), "learned", (8, 8), 0)
    network = "JiT(patch_size=4, hidden_size=8, depth=1, num_heads=1)"
    with pytest.warns(UserWarning, match=r"signals of 8 channels and length 8; if they are grey images, save them as"):
        assert build_model(TrainConfig(network=network), "learned", (8, 8), 0).network.shape == (8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build_model(TrainConfig(network=network), "learned", (2, 8), 0).network.grid == (2,)
        assert build_model(TrainConfig(network=network), "learned", (2, 8, 4, 4), 0).network.grid == (2, 1, 1)


def test_a_network_for_images_that_passes_its_options_on_says_so_too(tmp_path, monkeypatch):
    (tmp_path / "passing.py").write_text(
        "from kdiff.networks import JiT\n\n\nclass Passing(JiT):\n    def __init__(self, num_classes, **options):\n"
        "        super().__init__(patch_size=4, num_classes=0, hidden_size=8, depth=1, num_heads=1, **options)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"Passing is a network for images .* take a network for samples of any shape"):
        build_model(TrainConfig(network="passing.Passing"), "learned", (8,), 0)


def test_folders_are_named_after_the_data_the_file_or_the_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images.npz").touch()
    names = {"spiral(noise=0)": "spiral", "images.npz(64)": "images", "a/b.c/photos": "photos", "a/x.y.npz": "x.y"}
    names |= {"mine.parts.circle(5)": "circle", "mine.parts:square": "square", "..": "data"}
    assert {data: data_name(data) for data in names} == names


def test_a_class_path_gets_what_its_signature_has(module):
    assert build("network", f"{module}.nets.Net", shape=(3,), num_classes=2).given == {"shape": (3,), "depth": 1}
    assert build("network", f"{module}.nets:Net(depth=4)", shape=(3,)).given == {"shape": (3,), "depth": 4}
    assert build("network", {"name": f"{module}.nets.Net", "shape": [9]}, shape=(3,)).given == {"shape": [9], "depth": 1}
    # What a signature takes by ** alone, it may hand on to something that does not know it.
    assert build("network", f"{module}.nets.Any(width=5)", shape=(3,), num_classes=2).given == {"width": 5}
    several = build("network", f"{module}.nets.Several(2, 3, 4, drop=0.1)", shape=(3,), num_classes=2)
    assert several.given == {"dim": 2, "widths": (3, 4), "drop": 0.1}


def test_class_paths_that_do_not_work_say_why(module):
    for spec, message in {
        f"{module}.nets.Nett": "has no 'Nett'",
        f"{module}.netz.Net": "netz",
        f"{module}.needy.Net": "importing .*needy failed: No module named 'kdiff_no_such_module'",
        f"{module}.nets.Net(width=1)": r"Net has no option width .*its options are depth",
        f"{module}.nets.Positional": "the arguments of .* do not fit",
        f"{module}.nets.number": "expected the class path of a subclass of Module",
    }.items():
        with pytest.raises(ValueError, match=message):
            build("network", spec, shape=(3,), num_classes=2)


def test_an_error_inside_the_users_module_is_not_taken_for_a_missing_class(module):
    with pytest.raises(ValueError, match=r"importing .*broken failed: AttributeError: .*no_such_function"):
        build("network", f"{module}.broken.Net", shape=(3,))


def test_an_option_called_name_is_stored_and_read_back() -> None:
    """As a mapping it would take the place of the part's own name."""
    part = parse("package.data.table(name='wine', size=2)")
    assert parse(part.plain()) == part
    config = TrainConfig(data=part)
    assert from_dict(TrainConfig, as_dict(config)).data == part


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("sim.h5(key=[u, v])", {"key": ["u", "v"]}),
        ("sim.h5(condition={params: vector, past: field})", {"condition": {"params": "vector", "past": "field"}}),
        ("sim.h5(key=['a b', u], window={past: 2, future: 1})", {"key": ["a b", "u"], "window": {"past": 2, "future": 1}}),
        (
            "a.npz(condition={kind: class, 'a class': class}, key='class')",
            {"condition": {"kind": "class", "a class": "class"}, "key": "class"},
        ),
        ("a(x=[u, 2], y=[true, null, -1.5], z=[])", {"x": ["u", 2], "y": [True, None, -1.5], "z": []}),
    ],
)
def test_bare_words_inside_lists_and_mappings_are_text(text: str, options: dict[str, Any]) -> None:
    part = parse(text)
    assert part.options == options
    assert parse(str(part)) == part


@pytest.mark.parametrize("text", ["a(x=[u(1)])", "a(x={**u})", "a(x=[u for u in v])", "a(x={u, v})"])
def test_lists_and_mappings_hold_plain_values_only(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        parse(text)
