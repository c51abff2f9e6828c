"""The command report. Nothing here imports torch before there is work to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdiff.arguments import read_config


@dataclass
class ReportConfig:
    """How to show a run as a page.

    Args:
        compare: the folder of another run, to set this one beside.
    """

    compare: str | None = None


def report_command(argv: list[str]) -> None:
    """kdiff report RUN."""
    config, folder, _ = read_config("report", ReportConfig, argv, "RUN")
    if folder is None:
        raise ValueError("which run? kdiff report RUN, with the folder that kdiff train made (runs/…)")
    from kdiff.report.page import write_page

    print(write_page(Path(folder), Path(config.compare) if config.compare else None))
