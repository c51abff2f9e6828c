"""kdiff estimate DATA: what theory says about k for this data, before any training."""

from __future__ import annotations

from pathlib import Path

from kdiff.commands.arguments import check_data_given, out_option, read_config
from kdiff.config.parts import data_name, slug
from kdiff.config.studies import EstimateConfig

ABOUT = """Measures the dimensions, the spectrum and the variance of data, and computes the best k that each theory predicts
from them, for whole samples and for patches of images. Prints text, and writes a picture and JSON to estimates/DATA. This
takes seconds to minutes. Examples: kdiff estimate digits; kdiff estimate my_images/ --patch-size 16; kdiff estimate
vectors.npz --rank 64."""


def command(argv: list[str]) -> None:
    """Make the estimate, write its results, and print them."""
    extras = {"out": out_option("The folder for the results. If left out, estimates/DATA.")}
    config, data, further = read_config("estimate", EstimateConfig, argv, "DATA", extras, about=ABOUT)
    check_data_given(data, argv, "kdiff estimate DATA, for example: kdiff estimate digits")
    from kdiff.config.plain import as_dict
    from kdiff.files.atomic import write_json
    from kdiff.report.estimate_picture import draw_estimate
    from kdiff.report.estimate_text import as_text, meaning
    from kdiff.run.build import load_dataset
    from kdiff.run.environment import describe_environment
    from kdiff.studies.estimation import as_json, checked_times, estimate

    out = Path(further["out"] or Path("estimates") / slug(data_name(config.data)))
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; expected a folder for the results. Name another one by --out")
    checked_times(config)
    dataset = load_dataset(config)
    views = estimate(dataset, config, progress=True)
    out.mkdir(parents=True, exist_ok=True)
    record = {"config": as_dict(config), "data": dataset.fingerprint, "views": as_json(views)}
    write_json(out / "estimate.json", {**record, "environment": describe_environment()})
    draw_estimate(out / "estimate.png", views)
    print("\n\n".join([*map(as_text, views), meaning(dataset, views, str(config.data))]))
    print(f"\npicture    {out / 'estimate.png'}\nfigures    {out / 'estimate.json'}")
