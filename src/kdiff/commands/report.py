"""kdiff report RUN: show a run as one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdiff.commands.arguments import needed_run, read_config

ABOUT = """Writes RUN/report.html, one page that needs no other file. It shows what was trained, k, the loss, samples at
several steps of training, the measured figures, and sweeps. Examples: kdiff report runs/digits; kdiff report runs/digits
--compare runs/digits_velocity."""


@dataclass
class ReportConfig:
    """Settings for showing a run as a page.

    Args:
        compare: The folder of another run, which is shown beside this one. If left out, the page shows this run alone.
    """

    compare: str | None = None


def command(argv: list[str]) -> None:
    """Write the page, and print where it is."""
    config, folder, _ = read_config("report", ReportConfig, argv, "RUN", about=ABOUT)
    run = Path(needed_run(folder, "report"))
    from kdiff.report.page import write_page

    print(write_page(run, Path(config.compare) if config.compare else None))
