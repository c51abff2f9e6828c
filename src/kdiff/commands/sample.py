"""kdiff sample RUN: draw samples from a run."""

from __future__ import annotations

from pathlib import Path

from kdiff.commands.arguments import SAMPLER_OPTION, needed_run, read_config, sampled_as
from kdiff.config.sampling import SampleConfig, sampler_options

ABOUT = """Draws samples from a run, in the units of its data. Writes a picture, a safetensors file, and a JSON file that says
how the samples were drawn, to RUN/samples. Options that are left out are as the run's configuration says under `sampling`.
Examples: kdiff sample runs/digits --num 100 --guidance 2; kdiff sample runs/digits --sampler paper; kdiff sample runs/digits
--solver heun --steps 20 --times 'shifted(0.5)'; kdiff sample runs/digits --guidance 2 --guidance-checkpoint 500."""


def command(argv: list[str]) -> None:
    """Draw samples, and print the names of the files."""
    extras = {"sampler": SAMPLER_OPTION}
    config, folder, _ = read_config("sample", SampleConfig, argv, "RUN", extras, sampled_as(argv), ABOUT)
    from kdiff.report.run_pictures import sample_to_files
    from kdiff.run.run import calibrate_alike, load_run

    run = load_run(needed_run(folder, "sample"), config.checkpoint, config.ema, calibrated=config.calibrated)
    run.autoencoder = config.autoencoder
    weaker = None
    if config.guidance_run is not None or config.guidance_checkpoint is not None:
        weaker = load_run(
            config.guidance_run or run.folder, config.guidance_checkpoint, config.ema, calibrated=config.calibrated
        )
        calibrate_alike(run, weaker)
    out = Path(config.out) if config.out else None
    files = sample_to_files(run, config.num, config.seed, out, weaker, **sampler_options(config))
    print("\n".join(str(file) for file in files))
