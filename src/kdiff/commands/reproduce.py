"""kdiff reproduce CLAIM: test a claim of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdiff.commands.arguments import flag, out_option, read_config
from kdiff.config.studies import ReproduceConfig

ABOUT = """Tests a claim of the paper. First prints what is claimed, what is varied and measured, and what would refute the
claim. Then runs the experiment, which takes minutes, or hours with --full, and writes a table, a picture and a verdict. The
same command continues an experiment that was interrupted. Examples: kdiff reproduce --list; kdiff reproduce linear; kdiff
reproduce toy --full; kdiff reproduce all; kdiff reproduce beyond --full --only "H4*"."""


def command(argv: list[str]) -> None:
    """Reproduce one claim or all of them, and print findings and verdicts."""
    extras: dict[str, dict[str, Any]] = {
        "out": out_option(
            "The folder for the results. If left out, reproductions/quick/CLAIM, with --full reproductions/CLAIM."
        ),
        "full": flag("Run the whole experiment, which takes hours. If left out, a small form of it takes a few minutes."),
        "list": flag("List the claims and what each costs. With a CLAIM, print everything that it says before it runs."),
    }
    config, name, further = read_config("reproduce", ReproduceConfig, argv, "CLAIM", extras, about=ABOUT)
    from kdiff.claims.reproduction import CLAIMS, describe, find_claim, report, reproduce

    full, verdicts = further["full"], dict[str, str]()
    claims = [find_claim(each) for each in (CLAIMS if name in ("all", None) else (name,))]
    if further["list"]:
        _list(claims, full)
        return
    if name is None:
        raise ValueError(f"which claim? Type kdiff reproduce CLAIM, with {', '.join(CLAIMS)} or all; --list describes them")
    for claim in claims:
        base = Path(further["out"] or ("reproductions" if full else "reproductions/quick"))
        out = base / claim.name if name == "all" or not further["out"] else base
        print(describe(claim, full), flush=True)
        try:
            outcome = reproduce(claim, full, out, config.workers, claim.name, config.only)
        except (ValueError, OSError, RuntimeError) as error:
            if len(claims) == 1:
                raise
            # If one claim cannot run, for example because its data are missing, the others still run.
            verdicts[claim.name] = f"not decided: {error}"
            print(f"\n{error}\n")
            continue
        verdicts[claim.name] = outcome.verdict
        print(f"\n{report(outcome)}\npicture    {out / claim.name}.png")
        print(f"figures    {out / 'verdict.json'}, {out / 'results.csv'}\n")
    if len(verdicts) > 1:
        print("\n".join(f"{name:13}  {verdict}" for name, verdict in verdicts.items()))
    if not full:
        only = next(iter(verdicts)) if len(verdicts) == 1 else "CLAIM"
        print(f"This was the quick form. For the full experiment: kdiff reproduce {only} --full")


def _list(claims: list[Any], full: bool) -> None:
    """Print all of one claim, or one line for each of several claims."""
    from kdiff.claims.reproduction import describe

    if len(claims) == 1:
        print(describe(claims[0], full))
        return
    print("The claims, as questions. kdiff reproduce CLAIM puts one to the test:")
    for claim in claims:
        print(f"{claim.name:13}  {claim.title} (core-hours: quick {claim.core_hours[0]:g}, full {claim.core_hours[1]:g})")
    quick, whole = (sum(claim.core_hours[form] for claim in claims) for form in (False, True))
    print(f"All together: {quick:.1f} core-hours in the quick form, {whole:.0f} in full. More about one claim: --list CLAIM")
