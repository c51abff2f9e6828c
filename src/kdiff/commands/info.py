"""kdiff info RUN: print what a run folder holds."""

from __future__ import annotations

from kdiff.commands.arguments import TRUST, TRUSTED, needed_run


def command(argv: list[str]) -> None:
    """Print what the folder holds."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: kdiff info RUN [--trust]\n\nPrints what a run folder holds: data, model, k, loss and checkpoints.")
        print(f"\n  {TRUST}    {TRUSTED['help']}")
        return
    from kdiff.report.run_pictures import describe_run
    from kdiff.run.run import load_run

    argv = [word for word in argv if word != TRUST]
    if len(argv) > 1:
        raise ValueError(f"info takes one run and no options; found {' '.join(argv[1:])} as well")
    print(describe_run(load_run(needed_run(argv[0] if argv else None, "info"))))
