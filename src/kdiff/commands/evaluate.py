"""kdiff evaluate SOURCE: a run's samples, measured beside their floors, or images judged by the features of a network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from kdiff.commands.arguments import SAMPLER_OPTION, out_option, read_config, sampled_as
from kdiff.config.evaluation import EvaluateConfig

ABOUT = """Compares a run's samples with its data and writes RUN/evaluation.json. Samples are drawn with the default sampler,
and beside it with the paper's if that gives others (k above 0.95 or below 0.05). With --sampler paper they are drawn with the
paper's sampler, and with the same sampler and a last step that leaves no noise behind. Each figure stands beside its floors:
the figure of held-out data, and that of an exact denoiser through the same sampler. Fields are also judged by their power
spectrum and one-point distribution, tables by their columns, pairs of columns and a classifier, and runs with conditions by
the CRPS and the spread of ensembles. With --reference or --features, the command instead judges images (a run, a folder or a
.npz file) by FID, sFID, Inception score, KID, precision and recall, or by FD-DINOv2. Only then do the options on drawing
samples (--solver, --steps and others) apply, and the same command continues an evaluation that was interrupted. Examples:
kdiff evaluate runs/digits; kdiff evaluate runs/photos --features inception --num-samples 50000; kdiff evaluate samples.npz
--reference VIRTUAL_imagenet256_labeled.npz; kdiff evaluate photos/ --save-statistics photos.npz."""


def command(argv: list[str]) -> None:
    """Judge the samples or images, write the figures, and print them."""
    place = "Used with features only: the folder for the result and for a run's samples. If left out, evaluations/… in the run."
    extras = {"out": out_option(place), "sampler": SAMPLER_OPTION}
    config, source, further = read_config("evaluate", EvaluateConfig, argv, "SOURCE", extras, about=ABOUT)
    if source is None:
        raise ValueError("which run? Type kdiff evaluate RUN, with a folder that kdiff train has made (runs/…), or images")
    if config.by_features:
        config, _, _ = read_config("evaluate", EvaluateConfig, argv, "SOURCE", extras, sampled_as(argv), ABOUT)
        _by_features(source, config, further["out"])
    else:
        config.check_without_features()
        if further["out"]:
            raise ValueError("out goes with --features; without it the result is written to RUN/evaluation.json; leave it out")
        _by_floors(source, config, further["sampler"] or "default")


def _by_features(source: str, config: EvaluateConfig, out: str | None) -> None:
    from kdiff.evaluation.image_evaluation import evaluate_images
    from kdiff.evaluation.image_figures import figures_table

    judged = evaluate_images(source, config, Path(out) if out else None, progress="sampling")
    if judged:  # only the first of several processes prints
        result, file = judged
        print(f"{figures_table(result)}\n")
        print("".join(f"{path}\n" for path in (result.get("statistics"), file) if path), end="")


def _by_floors(source: str, config: EvaluateConfig, sampler: Literal["paper", "default"]) -> None:
    from kdiff.run.folder import no_run

    if not (Path(source) / "config.yaml").exists():
        raise ValueError(f"{no_run(Path(source))}, or judge images by --reference")
    from kdiff.evaluation.judge import Judge, evaluate, evaluation_table
    from kdiff.evaluation.own_data import OwnData
    from kdiff.evaluation.own_data_text import own_table
    from kdiff.files.atomic import write_json
    from kdiff.report.own_data_section import draw_own_data
    from kdiff.run.precision_choice import run_in
    from kdiff.run.run import load_run

    run = load_run(source, config.checkpoint, config.ema, calibrated=config.calibrated)
    run_in(config.precision, run)
    judge = Judge(run.dataset())
    if judge.held_out.note:
        warnings.warn(judge.held_out.note, stacklevel=2)
    own = OwnData(run, judge, config, sampler)
    given = (config.num_samples, config.seed, config.guidance, config.exact)
    result = evaluate(run, judge, *given, progress="sampling", more=own.judge, sampler=sampler)
    run.place.check()
    result["pictures"] = draw_own_data(run.folder, result, own.seen)
    write_json(run.folder / "evaluation.json", result)
    how = " with its calibration" if run.calibrated else ""
    print(f"{evaluation_table(result)}\n\n{own_table(result)}\n")
    print(f"{run.weights} at step {run.step}{how}: {run.folder / 'evaluation.json'}")
