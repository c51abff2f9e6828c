"""kdiff compare DATA: which prediction target suits this data?"""

from __future__ import annotations

from pathlib import Path

from kdiff.commands.arguments import check_data_given, out_option, read_config
from kdiff.config.parts import data_name, slug
from kdiff.config.studies import CompareConfig

ABOUT = """Trains the same network with each prediction target and compares their samples. Writes a table, two pictures, the
figures (CSV, JSON) and the runs to comparisons/DATA. The same command continues a comparison that was interrupted. Examples:
kdiff compare digits --seeds 1; kdiff compare vectors.npz --targets velocity 0.9 learned; kdiff compare
"spiral(ambient_dim=32)" --steps 2000."""


def command(argv: list[str]) -> None:
    """Run the comparison, draw it, and print its table and verdict."""
    extras = {"out": out_option("The folder for the comparison. If left out, comparisons/DATA.")}
    config, data, further = read_config("compare", CompareConfig, argv, "DATA", extras, about=ABOUT)
    check_data_given(data, argv, "kdiff compare DATA, for example: kdiff compare digits --seeds 1")
    from kdiff.report.comparison_picture import draw_comparison
    from kdiff.report.strip_picture import draw_strip
    from kdiff.studies.comparison import best_target, compare, table, verdict

    out = Path(further["out"] or Path("comparisons") / slug(data_name(config.data)))
    jobs, rows, dataset = compare(config, out)
    picture, strip = out / "comparison.png", out / "strip.png"
    draw_comparison(picture, jobs, rows, dataset)
    draw_strip(strip, jobs, dataset)
    print(f"\n{table(rows)}\n\n{verdict(rows)}\n")
    print(f"pictures   {picture}, {strip}\nfigures    {out / 'results.csv'}, {out / 'results.json'}\nruns       {out / 'runs'}")
    best = next(job.folder for job in jobs if job.target == best_target(rows))
    print(f"\nLook at the pictures. Then try kdiff info {best} or kdiff sample {best}, or compare targets on data of your own.")
