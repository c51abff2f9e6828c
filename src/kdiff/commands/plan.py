"""kdiff plan [CONFIG]: what a run would cost."""

from __future__ import annotations

from pathlib import Path

from kdiff.commands.arguments import out_option, read_config
from kdiff.config.training import PlanConfig

ABOUT = """Computes what a run would cost, from the network at its true size: parameters, FLOPs of a step, memory by part on 1
and 8 devices, device-hours. Reads no data if the configuration says which data it expects. To take real steps of the same
network, type kdiff train CONFIG --dry-run. Examples: kdiff plan digits; kdiff plan my.yaml --peak-tflops 312."""


def command(argv: list[str]) -> None:
    """Print the plan, and write it as JSON if a file is named."""
    extras = {"json": out_option("A JSON file to write the figures to as well.")}
    config, _, further = read_config("plan", PlanConfig, argv, "[CONFIG]", extras, about=ABOUT)
    from kdiff.files.atomic import write_json
    from kdiff.training.choosing import plan_network
    from kdiff.training.cost import as_json, as_text, cost_of, expected_data

    data = expected_data(config)
    config, chosen = plan_network(config, tuple(data.shape))
    cost = cost_of(config, data)
    if chosen:
        print(f"{chosen.as_text(config)}\n")
    print(as_text(config, data, cost))
    if further["json"]:
        write_json(Path(further["json"]), as_json(config, data, cost))
