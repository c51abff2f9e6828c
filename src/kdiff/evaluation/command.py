"""The command evaluate. Nothing here imports torch before there is work to do."""

from __future__ import annotations

from pathlib import Path

from kdiff.arguments import own_sampling, read_config
from kdiff.evaluation.config import EvaluateConfig


def evaluate_command(argv: list[str]) -> None:
    """kdiff evaluate SOURCE: a run by floors, or images by a network's features."""
    extras = {"out": {"type": str, "default": None, "help": "with features, folder for the result and a run's samples"}}
    config, source, further = read_config("evaluate", EvaluateConfig, argv, "SOURCE", extras)
    if source is None:
        raise ValueError("which run? kdiff evaluate RUN, with the folder that kdiff train made (runs/…), or images to compare")
    if config.by_features:
        config, _, _ = read_config("evaluate", EvaluateConfig, argv, "SOURCE", extras, own_sampling)
        _by_features(source, config, further["out"])
    else:
        config.check_without_features()
        if further["out"]:
            raise ValueError("out goes with --features; without it the result is RUN/evaluation.json")
        _by_floors(source, config)


def _by_features(source: str, config: EvaluateConfig, out: str | None) -> None:
    from kdiff.evaluation.score import evaluate_images, figures_table

    judged = evaluate_images(source, config, Path(out) if out else None, progress="sampling")
    if judged:  # of several processes, one speaks
        result, file = judged
        print(f"{figures_table(result)}\n")
        print("".join(f"{path}\n" for path in (result.get("statistics"), file) if path), end="")


def _by_floors(source: str, config: EvaluateConfig) -> None:
    if not (Path(source) / "config.yaml").exists():
        raise ValueError(
            f"{source} is not a run folder: it has no config.yaml; make one with kdiff train. Images are judged by --reference"
        )
    from kdiff.evaluation.judge import Judge, evaluate, evaluation_table
    from kdiff.files import write_json
    from kdiff.training.run import load_run

    run = load_run(source, config.checkpoint, config.ema)
    result = evaluate(
        run, Judge(run.dataset()), config.num_samples, config.seed, config.guidance, config.exact, progress="sampling"
    )
    write_json(run.folder / "evaluation.json", result)
    print(f"{evaluation_table(result)}\n\n{run.folder / 'evaluation.json'}")
