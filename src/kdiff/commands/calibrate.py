"""kdiff calibrate RUN: correct a run's data prediction by a gain for each direction and time."""

from __future__ import annotations

from dataclasses import dataclass

from kdiff.commands.arguments import needed_run, read_config
from kdiff.config.plain import PRECISIONS, Precision, check_choices, check_least

ABOUT = """Finds a calibration of a trained run: a gain on its data prediction for each direction and time, by least squares on
the training data, without training. It is adopted only if samples are then closer to held-out data. The commands sample,
evaluate, sweep, report and export then use it with the weights it was found for. All of these but report leave it out with
--calibrated false. The result is written to RUN/calibration. Examples: kdiff calibrate runs/digits; kdiff calibrate
runs/digits --ema none; kdiff sample runs/digits --calibrated false."""


@dataclass
class CalibrateConfig:
    """Settings for calibrating a run.

    Args:
        ema: The decay of the averaged weights to calibrate, or none for the raw weights. If left out, the run's first decay.
        checkpoint: The step of the checkpoint to calibrate. If left out, the newest checkpoint.
        samples: The number of training samples at each of the 32 times at which gains are found.
        seed: The seed of the noise and of the samples.
        precision: The precision of the network: no is float32, bf16 is bfloat16, fp16 is float16; auto is the faster one of no
            and bf16 on this machine. Calibrate in the precision that you sample in.
    """

    ema: float | str | None = None
    checkpoint: int | None = None
    samples: int = 1024
    seed: int = 0
    precision: Precision = "no"

    def __post_init__(self) -> None:
        check_least(self, samples=16)
        check_choices(self, precision=PRECISIONS)


def command(argv: list[str]) -> None:
    """Calibrate the run, and print what was found and whether it is adopted."""
    config, folder, _ = read_config("calibrate", CalibrateConfig, argv, "RUN", about=ABOUT)
    from kdiff.evaluation.adoption import calibrate_run
    from kdiff.report.calibration_picture import calibration_text, draw_gains
    from kdiff.run.precision_choice import run_in
    from kdiff.run.run import load_run

    run = load_run(needed_run(folder, "calibrate"), config.checkpoint, config.ema, calibrated=False)
    run_in(config.precision, run)
    result = calibrate_run(run, seed=config.seed, samples=config.samples, progress="calibrating")
    print(calibration_text(run, result))
    print(f"\n{draw_gains(run)}")
