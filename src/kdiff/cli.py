"""The command: subcommands, each a thin call into the package. Nothing here imports torch before there is work to do."""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdiff import __version__
from kdiff.arguments import check_data_given, data_name, own_sampling, read_config
from kdiff.evaluation.command import evaluate_command
from kdiff.experiments.config import EstimateConfig, ReproduceConfig
from kdiff.export_command import export_command
from kdiff.heap import keep_freed_memory
from kdiff.latent_commands import encode_command, train_autoencoder_command
from kdiff.report_command import report_command
from kdiff.training.config import TrainConfig
from kdiff.training.signals import sigterm_raises

OVERVIEW = """usage: kdiff COMMAND …

Train diffusion and flow models whose prediction target is learned (k-Diff, arXiv 2601.21419).

commands:
  compare DATA       noise, velocity, data or learned: which prediction target suits this data?
  estimate DATA      what theory says of k for this data, before any training
  train [CONFIG]     train a model into a run folder
  train-autoencoder DATA   train a small autoencoder of images
  encode DATA        encode images into a folder of latents, to train on like on any data
  sample RUN         draw samples from a run: a picture and a file
  evaluate SOURCE    judge a run's samples with floors, or images by FID and others
  sweep RUN          which guidance, solver, steps and weights give the best samples?
  report RUN         a run as one page: k, loss, samples, what was measured; beside another run
  export RUN         write a run as a pipeline of diffusers
  info RUN           what a run folder holds
  plan [CONFIG]      what a run would cost: parameters, FLOPs, memory, device-hours
  reproduce CLAIM    a claim of the paper, put to the test: table, picture, verdict (--list)

Start with:          kdiff compare digits --seeds 1
Help on a command:   kdiff COMMAND --help
DATA is a file (.npy, .npz, .safetensors), a folder of images, IDX files or latents, or a name: digits, fashion, glyphs,
photo_patches, spiral, moons, gaussian, gaussian_mixture, sphere; with options in brackets: "spiral(ambient_dim=32)",
"glyphs(size=32)".
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    0, 2 the user's mistake, 1 a run that failed, 130 Ctrl-C, 143 SIGTERM, 141 nobody reads what is printed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if arguments[0] == "--version":
        print(f"kdiff {__version__}")
        return 0
    name = arguments.pop(0)
    commands: dict[str, Callable[[list[str]], None]] = {
        "compare": _compare,
        "estimate": _estimate,
        "train": _train,
        "train-autoencoder": train_autoencoder_command,
        "encode": encode_command,
        "sample": _sample,
        "evaluate": evaluate_command,
        "sweep": _sweep,
        "report": report_command,
        "export": export_command,
        "info": _info,
        "plan": _plan,
        "reproduce": _reproduce,
    }
    if name not in commands:
        close = difflib.get_close_matches(name, commands, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"kdiff: error: no command is called {name!r}{hint} (kdiff --help lists them)", file=sys.stderr)
        return 2
    # A user's own modules are named from where they stand.
    sys.path.insert(0, os.getcwd())
    keep_freed_memory()
    try:
        with sigterm_raises(), _short_warnings(name):
            commands[name](list(arguments))
            sys.stdout.flush()
            _part()
        return 0
    except BrokenPipeError:  # "| head" has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain as it ends
        return 141  # as of a process that SIGPIPE ends
    except (ValueError, TypeError, OSError) as error:
        return _report(name, error, 2)
    except RuntimeError as error:
        return _report(name, error, 1)
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
            print(_how_to_go_on(name, arguments, str(stop)), flush=True)
        return getattr(stop, "code", 130)


def _how_to_go_on(name: str, arguments: list[str], what: str) -> str:
    resuming = [*arguments, *([] if "--resume" in arguments else ["--resume"])]
    again = dict.fromkeys(("compare", "reproduce", "encode", "evaluate", "sweep"), arguments)
    again |= {} if "--dry-run" in arguments else dict.fromkeys(("train", "train-autoencoder"), resuming)
    where = {"encode": "from the first shard that is missing", "evaluate": "where it was", "sweep": "where it was"}
    start = where.get(name, "from the last checkpoint")
    how = f"go on {start} with: {shlex.join(['kdiff', name, *again[name]])}" if name in again else ""
    return "\n" + "; ".join(part for part in ("stopped", what, how) if part)


@contextlib.contextmanager
def _short_warnings(command: str) -> Iterator[None]:
    """Warnings on a line, like errors, without the place in the code."""
    usual = warnings.formatwarning

    def form(message: Any, category: type[Warning], *place: Any, **more: Any) -> str:
        return f"kdiff {command}: warning: {message}\n" if category is UserWarning else usual(message, category, *place, **more)

    warnings.formatwarning = form
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _report(command: str, error: Exception, code: int) -> int:
    if os.environ.get("KDIFF_TRACEBACK"):
        traceback.print_exc()
    print(f"kdiff {command}: error: {error}", file=sys.stderr)
    return code


def _compare(argv: list[str]) -> None:
    from kdiff.experiments.config import CompareConfig

    extras = {"out": {"type": str, "default": None, "help": "folder for the comparison; comparisons/DATA if left out"}}
    config, data, further = read_config("compare", CompareConfig, argv, "DATA", extras)
    check_data_given(data, argv, "kdiff compare DATA, for example: kdiff compare digits --seeds 1")
    from kdiff.experiments.compare import best_target, compare, table, verdict
    from kdiff.experiments.runner import slug
    from kdiff.report.comparison import draw_comparison

    out = Path(further["out"] or Path("comparisons") / slug(data_name(config.data)))
    jobs, rows, dataset = compare(config, out)
    picture = out / "comparison.png"
    draw_comparison(picture, jobs, rows, dataset)
    print(f"\n{table(rows)}\n\n{verdict(rows)}\n")
    print(f"picture    {picture}\nfigures    {out / 'results.csv'}, {out / 'results.json'}\nruns       {out / 'runs'}")
    best = next(job.folder for job in jobs if job.target == best_target(rows))
    print(f"\nLook at the picture, then: kdiff info {best}, kdiff sample {best}, or compare on data of your own.")


def _estimate(argv: list[str]) -> None:
    extras = {"out": {"type": str, "default": None, "help": "folder for the results; estimates/DATA if left out"}}
    config, data, further = read_config("estimate", EstimateConfig, argv, "DATA", extras)
    check_data_given(data, argv, "kdiff estimate DATA, for example: kdiff estimate digits")
    from kdiff.components import parse
    from kdiff.experiments.estimate import as_json, checked_times, estimate
    from kdiff.experiments.runner import slug
    from kdiff.files import write_json
    from kdiff.report.estimate import draw_estimate
    from kdiff.report.estimate_text import as_text, meaning
    from kdiff.training.build import describe_environment, load_dataset
    from kdiff.training.config import as_dict

    out = Path(further["out"] or Path("estimates") / slug(data_name(config.data)))
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; expected a folder for the results: name another by --out")
    checked_times(config)
    dataset = load_dataset(config)
    views = estimate(dataset, config, progress=True)
    out.mkdir(parents=True, exist_ok=True)
    record = {"config": as_dict(config), "data": dataset.fingerprint, "views": as_json(views)}
    write_json(out / "estimate.json", {**record, "environment": describe_environment()})
    draw_estimate(out / "estimate.png", views)
    print("\n\n".join([*map(as_text, views), meaning(dataset, views, str(parse(config.data)))]))
    print(f"\npicture    {out / 'estimate.png'}\nfigures    {out / 'estimate.json'}")


def _train(argv: list[str]) -> None:
    extras: dict[str, dict[str, Any]] = {
        "out": {"type": str, "default": None, "help": "the run folder; runs/DATA if left out"},
        "resume": {"action": "store_true", "help": "go on from the newest checkpoint of the run folder"},
        "dry_run": {"action": "store_true", "help": "take two real steps of 2 made-up samples with the whole model, and stop"},
    }
    config, _, further = read_config("train", TrainConfig, argv, "[CONFIG]", extras)
    if further["dry_run"]:
        _dry_run(config)
        return
    from accelerate import PartialState

    from kdiff.report.run import SampleGrids, draw_run
    from kdiff.training.run import train_run

    out = Path(further["out"] or Path("runs") / data_name(config.data))
    run = train_run(config, out, resume=further["resume"], progress="training", on_sample=SampleGrids())
    if not PartialState().is_main_process:
        return
    pictures = draw_run(run)
    print(f"\n{out}: {run.step} steps, loss {run.metrics()[-1]['loss']:.4g}, target {run.model.target}")
    print("".join(f"picture    {path}\n" for path in pictures), end="")
    print(f"Next: kdiff sample {out}, kdiff evaluate {out}")


def _dry_run(config: TrainConfig) -> None:
    from kdiff.training.plan import dry_run, peak_memory

    fitted = dry_run(config)
    found = ", ".join(f"{name} {fitted.metrics[name]:.4g}" for name in ("loss", "k") if name in fitted.metrics)
    print(f"2 steps of 2 made-up samples: {found}, {fitted.seconds / 2:.3g} s a step, {peak_memory() / 1e9:.3g} GB at most")


def _plan(argv: list[str]) -> None:
    from kdiff.training.config import PlanConfig

    extras = {"json": {"type": str, "default": None, "help": "write the figures into this file as well"}}
    config, _, further = read_config("plan", PlanConfig, argv, "[CONFIG]", extras)
    from kdiff.files import write_json
    from kdiff.training.plan import as_json, as_text, cost_of, expected_data

    data = expected_data(config)
    cost = cost_of(config, data)
    print(as_text(config, data, cost))
    if further["json"]:
        write_json(Path(further["json"]), as_json(config, data, cost))


def _sample(argv: list[str]) -> None:
    from kdiff.evaluation.config import SampleConfig, sampler_options

    config, folder, _ = read_config("sample", SampleConfig, argv, "RUN", defaults=own_sampling)
    from kdiff.report.run import sample_to_files
    from kdiff.training.run import load_run

    run = load_run(_needed(folder, "sample"), config.checkpoint, config.ema)
    run.autoencoder = config.autoencoder
    weaker = None
    if config.guidance_run is not None or config.guidance_checkpoint is not None:
        weaker = load_run(config.guidance_run or run.folder, config.guidance_checkpoint, config.ema)
    out = Path(config.out) if config.out else None
    files = sample_to_files(run, config.num, config.seed, out, weaker, **sampler_options(config))
    print("\n".join(str(file) for file in files))


def _sweep(argv: list[str]) -> None:
    from kdiff.experiments.config import SweepConfig

    extras = {"out": {"type": str, "default": None, "help": "folder for the sweep; RUN/sweeps/… if left out"}}

    def own(run: str) -> dict[str, Any]:
        return {name: [value] for name, value in own_sampling(run).items() if name in SweepConfig.__dataclass_fields__}

    config, folder, further = read_config("sweep", SweepConfig, argv, "RUN", extras, own)
    run = Path(_needed(folder, "sweep"))
    from kdiff.experiments.sweep import sweep, table, verdict
    from kdiff.report.sweep import draw_sweep

    found, out = sweep(run, config, Path(further["out"]) if further["out"] else None, progress="sweep")
    draw_sweep(out / "sweep.png", found)
    print(f"\n{table(found)}\n\n{verdict(found)}\n")
    print(f"picture    {out / 'sweep.png'}\nfigures    {out / 'sweep.csv'}, {out / 'sweep.json'}")


def _info(argv: list[str]) -> None:
    if argv and argv[0] in ("-h", "--help"):
        print("usage: kdiff info RUN\n\nWhat a run folder holds: data, model, k, loss, checkpoints.")
        return
    from kdiff.report.run import describe_run
    from kdiff.training.run import load_run

    if len(argv) > 1:
        raise ValueError(f"info takes one run and no options; found {' '.join(argv[1:])} besides")
    print(describe_run(load_run(_needed(argv[0] if argv else None, "info"))))


def _reproduce(argv: list[str]) -> None:
    extras: dict[str, dict[str, Any]] = {
        "out": {"type": str, "default": None, "help": "folder; reproductions/CLAIM (full) or reproductions/quick/CLAIM"},
        "full": {"action": "store_true", "help": "the whole experiment, hours; without it a small form of a few minutes"},
        "list": {
            "action": "store_true",
            "help": "what can be reproduced, at what cost; of one CLAIM, all it says beforehand",
        },
    }
    config, name, further = read_config("reproduce", ReproduceConfig, argv, "CLAIM", extras)
    from kdiff.experiments.reproduce import CLAIMS, describe, find_claim, report, reproduce

    full, verdicts = further["full"], dict[str, str]()
    claims = [find_claim(each) for each in (CLAIMS if name in ("all", None) else (name,))]
    if further["list"]:
        if len(claims) == 1:
            print(describe(claims[0], full))
            return
        for claim in claims:
            print(f"{claim.name:13}  {claim.title} (core-hours: quick {claim.core_hours[0]:g}, full {claim.core_hours[1]:g})")
        quick, whole = (sum(claim.core_hours[form] for claim in claims) for form in (False, True))
        print(f"All together: {quick:.1f} core-hours in the quick form, {whole:.0f} in full. More on one: --list CLAIM")
        return
    if name is None:
        raise ValueError(f"which claim? kdiff reproduce CLAIM, one of {', '.join(CLAIMS)}, or all; kdiff reproduce --list")
    for claim in claims:
        base = Path(further["out"] or ("reproductions" if full else "reproductions/quick"))
        out = base / claim.name if name == "all" or not further["out"] else base
        print(describe(claim, full), flush=True)
        try:
            outcome = reproduce(claim, full, out, config.workers, claim.name)
        except (ValueError, OSError, RuntimeError) as error:
            if len(claims) == 1:
                raise
            # Data that are not installed, say, are no reason to leave the others.
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
        print(f"This was the quick form. For the real answer: kdiff reproduce {only} --full")


def _part() -> None:
    """Close the connections of torchrun's processes: left open, they can abort Python as it ends, and torchrun the others."""
    distributed = sys.modules.get("torch.distributed")  # imported only where there was work
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _needed(folder: str | None, command: str) -> str:
    if folder is None:
        raise ValueError(f"which run? kdiff {command} RUN, with the folder that kdiff train made (runs/…)")
    return folder


if __name__ == "__main__":
    sys.exit(main())
