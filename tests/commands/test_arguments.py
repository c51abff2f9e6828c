"""Configurations from YAML and the command line: whatever the form, the same values; mistakes are named."""

from __future__ import annotations

import pytest
import yaml

from kdiff.commands.arguments import config_folder, find_config, read_config
from kdiff.config.autoencoding import AutoencoderConfig
from kdiff.config.parts import parse
from kdiff.config.plain import as_dict
from kdiff.config.sampling import SampleConfig, Sampling, sampler_options
from kdiff.config.studies import CompareConfig
from kdiff.config.training import Expected, TrainConfig
from kdiff.networks.sizes import find_network

OUT = {"out": {"type": str, "default": None, "help": "a folder"}}


def train(*argv: str) -> TrainConfig:
    return read_config("train", TrainConfig, list(argv), "[CONFIG]", OUT)[0]


def compare(*argv: str) -> CompareConfig:
    return read_config("compare", CompareConfig, list(argv), "DATA", OUT)[0]


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_nothing_given_is_the_defaults() -> None:
    assert train() == TrainConfig()
    assert compare() == CompareConfig()
    assert read_config("sample", SampleConfig, ["runs/digits"], "RUN") == (SampleConfig(), "runs/digits", {})


@pytest.mark.parametrize(
    "line",
    [
        "runs/a --num 4 --list --into x",
        "--num 4 runs/a --list --into x",
        "--num=4 --list runs/a --into=x",
        "--into x --list --num 4 runs/a",
    ],
)
def test_the_positional_argument_may_stand_anywhere(line: str) -> None:
    extras = {"into": OUT["out"], "list": {"action": "store_true"}}
    config, place, further = read_config("sample", SampleConfig, line.split(), "RUN", extras)
    assert (config.num, place, further) == (4, "runs/a", {"into": "x", "list": True})


def test_there_is_one_positional_argument() -> None:
    with pytest.raises(ValueError, match="unrecognized arguments: runs/b"):
        read_config("sample", SampleConfig, ["runs/a", "--num", "4", "runs/b"], "RUN")


@pytest.mark.parametrize(
    "argv",
    [
        ["--network", "MLP", "--network.width", "16"],
        ["--network.width=16", "--network=MLP"],
        ["--network", "MLP(width=16)"],
        ["--network", "{name: MLP, width: 16}"],
        ["--network", '{"name": "MLP", "width": 16}'],
        ["--network", "MLP(width=32)", "--network.width", "16"],
        ["--network.width", "16", "--network", "MLP(width=32)"],
        ["YAML", "network: MLP(width=16)"],
        ["YAML", "network: {name: MLP, width: 16}"],
        ["YAML", "network:\n  name: MLP\n  width: 16\n"],
        ["YAML", "network: MLP(width=32)", "--network.width", "16"],
        ["YAML", "network: {name: MLP, width: 32}", "--network", "MLP(width=16)"],
    ],
)
def test_every_form_of_a_component_is_the_same_one(argv, yaml_file) -> None:
    if argv[0] == "YAML":
        argv = [yaml_file(argv[1]), *argv[2:]]
    config = train(*argv)
    assert parse(config.network) == parse("MLP(width=16)")
    config.network = "auto"
    assert config == TrainConfig(), "nothing else may change"


def test_options_of_a_network_that_is_left_out_wait_for_the_choice() -> None:
    assert parse(train("--network.width", "16").network) == parse("auto(width=16)")
    assert parse(train("--network.budget", "30m").network) == parse("auto(budget='30m')")


def test_options_of_a_component_are_added_to_those_it_has() -> None:
    config = train("--network", "MLP(depth=2)", "--network.width", "16", "--data.num_samples", "400", "--data", "spiral")
    assert parse(config.network).options == {"depth": 2, "width": 16}
    assert parse(config.data) == parse("spiral(num_samples=400)")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("2", 2),
        ("0.5", 0.5),
        ("1e-2", 0.01),
        ("-1", -1),
        ("true", True),
        ("null", None),
        ("curved", "curved"),
        ("[0, 1]", [0, 1]),
    ],
)
def test_options_of_a_component_are_read_as_plain_values(word, value) -> None:
    options = parse(train("--network.option", word).network).options
    assert options == {"option": value}
    assert type(options["option"]) is type(value)


def test_dashes_and_equals_signs() -> None:
    config = train("--batch-size", "7", "--log-every=3", "--learning_rate", "1e-2", "--target.min-denominator", "0.1")
    assert (config.batch_size, config.log_every, config.learning_rate) == (7, 3, 0.01)
    assert parse(config.target) == parse("learned(min_denominator=0.1)")


@pytest.mark.parametrize(
    "argv",
    [
        ["--targets", "noise", "0.9", "learned(rate=1)"],
        ["--targets", "noise", "0.9", "learned(rate=1)", "--seeds", "3"],
        ["--targets", '[noise, 0.9, "learned(rate=1)"]'],
        ["--targets=[noise, 0.9, 'learned(rate=1)']"],
        ["--config", "targets: [noise, 0.9, learned(rate=1)]"],
    ],
)
def test_lists_as_words(argv, yaml_file) -> None:
    if argv[0] == "--config":
        argv = ["--config", yaml_file(argv[1])]
    config = compare(*argv)
    assert config.targets == [*map(parse, ("noise", 0.9, "learned(rate=1)"))]
    assert config.seeds == CompareConfig().seeds


def test_lists_and_pairs_of_numbers_as_words() -> None:
    config = train("--ema", "0.9", "0.99", "--betas", "0.5", "0.6", "--steps", "3")
    assert (config.ema, config.betas, config.steps) == ([0.9, 0.99], [0.5, 0.6], 3)
    samples, _, _ = read_config("sample", SampleConfig, ["r", "--guidance-interval", "0.1", "0.9", "--ema", "none"], "RUN")
    assert (samples.guidance_interval, samples.ema) == ((0.1, 0.9), "none")


def test_the_command_line_wins_over_the_file(yaml_file) -> None:
    path = yaml_file("steps: 10\nbatch_size: 5\nout: here\n")
    option = ["--steps", "20"]
    for argv in ([path, *option], ["--config", path, *option], [*option, "--config", path], [*option, f"--config={path}"]):
        config, _, further = read_config("train", TrainConfig, argv, "[CONFIG]", OUT)
        assert (config.steps, config.batch_size, further) == (20, 5, {"out": "here"})


def test_data_in_first_place_is_data_with_its_options() -> None:
    assert str(compare("moons").data) == "moons"
    assert parse(compare("spiral", "--data.num_samples", "400").data) == parse("spiral(num_samples=400)")
    config, place, further = read_config("compare", CompareConfig, ["spiral(noise=0.1)", "--out", "x"], "DATA", OUT)
    assert (str(config.data), place, further) == ("spiral(noise=0.1)", "spiral(noise=0.1)", {"out": "x"})


def test_configurations_of_the_package_by_name(yaml_file, tmp_path, monkeypatch) -> None:
    for path in config_folder().glob("*.yaml"):
        assert find_config(path.stem) == path
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= set(as_dict(TrainConfig()))
        assert isinstance(train(path.stem), TrainConfig)
    assert str(train("digits").data) == "digits"
    monkeypatch.chdir(tmp_path)
    yaml_file("steps: 9")
    assert train("config.yaml").steps == 9


@pytest.mark.parametrize("name", ["digit", "config.json", "missing.yaml", "spiral", "images.npz"])
def test_a_configuration_that_is_none(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"no configuration '{name}'.*digits.*kdiff train --data {name}"):
        train(name)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--network.width", "16"],
        ["--network", "MLP(width=16)", "--data.num_samples", "400", "--data", "spiral", "--target", "0.9", "--batch-size", "3"],
        ["--timesteps", "{name: logit_normal, mean: 1e-05}", "--target.init", "1e-3", "--ema", "0.9", "0.99", "--out", "here"],
    ],
)
def test_a_printed_configuration_reads_back_as_the_same(argv, yaml_file, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        train(*argv, "--print-config")
    assert not end.value.code
    printed = capsys.readouterr().out
    again = train(yaml_file(printed))
    assert again == train(*argv)
    with pytest.raises(SystemExit):
        train(yaml_file(printed), "--print_config")
    assert capsys.readouterr().out == printed


def test_a_printed_comparison_names_its_data(yaml_file, capsys) -> None:
    argv = ["spiral", "--data.num_samples", "400", "--targets", "noise", "0.9"]
    with pytest.raises(SystemExit):
        compare(*argv, "--print_config")
    assert compare("--config", yaml_file(capsys.readouterr().out)) == compare(*argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stepz", "3"], "--stepz.*did you mean 'steps'.*kdiff train --help"),
        (["--step", "3"], "--step .*did you mean 'steps'"),
        (["--batch-sise", "3"], "--batch_sise.*did you mean 'batch_size'"),
        (["--qqq", "3"], "--qqq"),
        (["--steps", "many"], "steps.*many"),
        (["--steps", "1.5"], "steps.*1.5"),
        (["--steps"], "steps"),
        (["--steps", "0"], "steps is 0; expected at least 1"),
        (["--schedule", "cosin"], "schedule.*'constant', 'cosine'.*cosin"),
        (["--ema", "1.5"], "ema is .*1.5.*expected"),
        (["--network.width"], "--network.width needs a value"),
        (["--network.width", "--steps", "3"], "--network.width needs a value"),
        (["--network.width", "["], r"--network.width is '\['"),
        (["--network.width", "3", "--network", "MLP(width=)"], r"cannot read 'MLP\(width=\)'"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--target", "learned(rate:1)"], r"^target: cannot read 'learned\(rate:1\)'; expected name\(option=value"),
        (["--target="], "^target: cannot read ''; expected name"),
        (["--sampling.guidance", "two"], "^sampling.guidance: expected a number, got 'two'"),
        (["--sampling.last_step", "now"], r"^sampling.last_step: expected one of \['data', 'euler'\], got 'now'"),
        (["--sampling.steps", "0"], "steps is 0; expected at least 1"),
        (["--sampling.solver", "heun(order=)"], r"^sampling.solver: cannot read 'heun\(order=\)'"),
    ],
)
def test_mistakes_on_the_command_line(argv, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        train(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 5", "no option is called 'stepz'; did you mean 'steps'"),
        ("data: spiral\nlearning-rate: 5", "'learning-rate'; did you mean 'learning_rate'"),
        ("qqq: 5", "qqq"),
        ("network.width: 5", r"'network.width'; write network: \{name: …, width: …\}"),
        ("target: {nam: learned}", r"target: .*has no name; expected \{name: …"),
        ("target: no", r"target is false \(YAML reads no and off as false\); expected a name, a number"),
        ("target: learned(rate:1)", "target: cannot read"),
        ("network: [MLP]", r"network is \['MLP'\]; expected a name"),
        ("steps: many", "steps is 'many'; expected a whole number"),
        ("steps: 1.5", "steps is 1.5; expected a whole number"),
        ("steps: [100]", r"steps is \[100\]; expected a whole number"),
        ("steps: yes", r"steps is true \(YAML reads yes and on as true\); expected a whole number"),
        ("steps: 010", "line 1: YAML reads 010 as 8; write 8"),
        ("clip: no", "clip is false .*expected a number"),
        ("ema: [a]", r"ema is \['a'\]; expected a list, each a number"),
        ("ema: {a: 1}", "ema is .*; expected a list"),
        ("schedule: cosin", "schedule is 'cosin'; expected constant or cosine"),
        ("tensorboard: 2", "tensorboard is 2; expected true or false"),
        ("out: 5", "out is 5; expected text, in quotes"),
        ("sampling:", "sampling is empty; expected keys and values, such as guidance: …"),
        ("sampling: 5", "sampling is 5; expected keys and values"),
        ("sampling: {steps: }", "sampling.steps is empty; expected a whole number"),
        ("sampling: {solver: }", "sampling.solver is empty; expected a name"),
        ("sampling: {guidance_interval: 0.5}", "sampling.guidance_interval is 0.5; expected 2 values in square brackets"),
        ("sampling: {solver: heun}\nsampling.steps: 5", "sampling.steps is given together with sampling; expected"),
        ("expects: {shape: [a]}", "expects.shape is .*; expected a list, each a whole number"),
        ("trust: true", "trust is true .*expected False"),
        ("steps: [", "line 1"),
        ("steps: 5\n\ta: 3", "line 2: found character"),
        ("- steps", r"holds \['steps'\]; expected keys and values"),
        ("", "holds nothing; expected keys and values"),
        ("on: 3", r"a key is true \(YAML reads yes and on as true\)"),
        ("data: !!binary aGk=", "line 1: could not determine a constructor"),
        ("steps: 5\nseed: 1\nsteps: 7", "line 3: steps is given twice, here and in line 1"),
        ("network: {name: MLP, width: 5, width: 6}", "line 1: width is given twice, here and in line 1"),
        ("sampling:\n  solver: heun\n  solver: ab3", "line 3: solver is given twice, here and in line 2"),
        ("network: &a {name: MLP, width: *a}", "line 1: found unconstructable recursive node"),
        ("steps: 0", "steps is 0"),
        *(
            (f"{name}:", f"{name} is empty; expected")
            for name in as_dict(TrainConfig())
            if name not in ("expects", "recipe", "start_from")
        ),
    ],
)
def test_mistakes_in_a_file(text, message, yaml_file) -> None:
    path = yaml_file(text)
    with pytest.raises(ValueError, match=message) as caught:
        train(path)
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in ("None", "<class", "Namespace"))
    assert path in str(caught.value) or text == "steps: 0"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("steps: 1e2", {"steps": 100}),
        ("steps: '1e2'", {"steps": 100}),
        ("learning_rate: 1e-2", {"learning_rate": 0.01}),
        ("precision: no", {"precision": "no"}),
        ("tensorboard: 'false'", {"tensorboard": False}),
        ("tensorboard: off", {"tensorboard": False}),
        ("ema: 0.9", {"ema": [0.9]}),
        ("expects:", {"expects": None}),
        ("expects: {shape: [1e1, 8], num_classes: 1e1}", {"expects": Expected([10, 8], 10)}),
        ("sampling: {steps: 2e1}", {"sampling": Sampling(steps=20)}),
        ("sampling.steps: 2e1", {"sampling": Sampling(steps=20)}),
        ("target: 5e-1", {"target": parse(0.5)}),
        ("a: &a {steps: 5}\n<<: *a", None),
    ],
)
def test_values_that_only_look_different(text, values, yaml_file) -> None:
    if values is None:
        with pytest.raises(ValueError, match="no option is called 'a'"):  # a merged key is no key that is given twice
            train(yaml_file(text))
        return
    config = train(yaml_file(text))
    assert {name: getattr(config, name) for name in values} == values
    assert {name: type(getattr(config, name)) for name in values} == {name: type(value) for name, value in values.items()}


def test_whole_numbers_with_an_exponent_on_the_command_line() -> None:
    config = train("--steps", "1e3", "--batch-size=2e1", "--expects.shape", "[1, 8]", "--network=MLP", "--network.width", "1e1")
    assert (config.steps, config.batch_size, config.network.options) == (1000, 20, {"width": 10})
    assert type(find_network(config.network, shape=(4,), num_classes=0)().hidden[1].out_features) is int
    autoencoder = read_config("encode", AutoencoderConfig, ["fashion", "--channels", "1e1", "20"], "DATA")[0]
    assert autoencoder.channels == [10, 20]


def test_no_message_names_a_class_of_the_parser(yaml_file, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for argv in (["--target", "a(b:1)"], ["--config", "missing.yaml"], [yaml_file("sampling: {guidance: two}")]):
        with pytest.raises(ValueError, match=r"^[\w./-]+: ") as caught:
            train(*argv)
        assert not any(word in str(caught.value) for word in ("Parser", "PartField", "<class"))


@pytest.mark.parametrize(("solver", "times"), [("ab3", "shifted(0.3)"), ("dopri5(1e-06)", "[0, 0.2, 1]"), ("a.b:c", "uniform")])
def test_solver_and_times_are_parts_that_files_hold_as_text(solver, times, yaml_file, capsys) -> None:
    argv = ["runs/a", "--solver", solver, "--times", times]
    config = read_config("sample", SampleConfig, argv, "RUN")[0]
    assert (config.solver, config.times) == (parse(solver), parse(times))
    assert (as_dict(config)["solver"], as_dict(config)["times"]) == (solver, times)
    assert [sampler_options(config)[name] for name in ("solver", "times")] == [solver, times]
    with pytest.raises(SystemExit):
        read_config("sample", SampleConfig, [*argv, "--print-config"], "RUN")
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["times"] == times
    assert read_config("sample", SampleConfig, ["--config", yaml_file(printed)], "RUN")[0] == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"last_step": "now"}, "last_step is 'now'; expected data or euler"),
        ({"guidance_interval": [0.1]}, r"guidance_interval is \[0.1\]; expected two times"),
        ({"solver": "heun(order=)"}, "cannot read"),
    ],
)
def test_settings_of_sampling_are_checked_when_they_are_made(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_help_says_what_each_option_is(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        train("--help")
    assert not end.value.code
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: kdiff train [CONFIG] [--option value …]" in text
    for name in as_dict(TrainConfig()):
        assert f"--{name} " in text
    assert f"optimiser steps. (type: int, default: {TrainConfig().steps})" in text


def test_a_file_may_name_every_character(tmp_path) -> None:
    """Characters beyond the 65,536 of the first plane, too."""
    path = tmp_path / "config.yaml"
    path.write_text('data: "names/\N{MUSICAL SYMBOL G CLEF}.npz"\n', encoding="utf-8")
    assert train("--config", str(path)).data.name == "names/\N{MUSICAL SYMBOL G CLEF}.npz"
