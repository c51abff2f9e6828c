"""kdiff info RUN, or kdiff info DATA: print what a run folder holds, or what is in data before anything is trained on them."""

from __future__ import annotations

import os
from pathlib import Path

from kdiff.commands.arguments import TRUST, TRUSTED, needed_run

USAGE = f"""usage: kdiff info RUN [{TRUST}]
       kdiff info DATA [--json] [--picture PATH.png]

Prints what a run folder holds: data, model, k, loss and checkpoints. Or prints what data hold before anything is trained:
samples, labels, conditions, ranges, missing values, the normalisation that would be taken, sizes, remarks, and what to type.
DATA is anything that kdiff train reads, with its options in brackets: "sim.h5(key=fields, condition=params)".

  --json            print the facts of DATA as JSON
  --picture PATH    also write a picture of samples of DATA, a PNG; without it no file is written
  {TRUST}    {TRUSTED["help"]}"""


def command(argv: list[str]) -> None:
    """Print what the folder, the file or the source holds."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return
    argv = [word for word in argv if word != TRUST]
    if argv and is_data(next((word for word in argv if not word.startswith("-")), "")):
        _data(argv)
        return
    from kdiff.report.run_text import describe_run
    from kdiff.run.run import load_run

    if len(argv) > 1:
        raise ValueError(f"info takes one run and no options; found {' '.join(argv[1:])} as well")
    print(describe_run(load_run(needed_run(argv[0] if argv else None, "info"))))


def is_data(name: str) -> bool:
    """Whether the name is that of data: a source by name, a file, or a folder with data in it that is no run or part of one."""
    from kdiff.config.parts import Part, parse

    folder = Path(name).expanduser()
    runs = [*(place for place in folder.parents if (place / "checkpoints").is_dir()), *folder.glob("*/")]
    if not name or any((place / "config.yaml").exists() for place in (folder, *runs)):
        return False
    from kdiff.data.arrays import READERS
    from kdiff.data.folder_names import is_picture
    from kdiff.data.formats.finding import opener_of
    from kdiff.data.idx import idx_files
    from kdiff.data.latents import is_latent_folder
    from kdiff.data.sources import SOURCES

    part = Part(name) if folder.exists() else parse(name)
    folder = Path(part.name).expanduser()
    if part.name in SOURCES or opener_of(part.name) is not None or folder.suffix.lower() in READERS:
        return True
    if folder.is_dir():
        return bool(
            idx_files(folder)
            or is_latent_folder(folder)
            or any(is_picture(file) for _, _, files in os.walk(folder, followlinks=True) for file in files)
        )
    return False


def _data(argv: list[str]) -> None:
    as_json, picture, words, rest = False, None, [], list(argv)
    while rest:
        word = rest.pop(0)
        option, _, value = word.partition("=")
        if word == "--json":
            as_json = True
        elif option == "--picture":
            picture = value or (rest.pop(0) if rest else "")
            if not picture.lower().endswith(".png"):
                raise ValueError(f"--picture takes the path of a PNG, such as samples.png; found {picture!r}")
        elif word.startswith("-"):
            raise ValueError(f"info has no option {word} for data; it has --json and --picture PATH.png")
        else:
            words.append(word)
    if len(words) > 1:
        raise ValueError(
            f"info takes one source of data; found {' '.join(words[1:])} as well (put options in brackets, quoted)"
        )
    import json

    from kdiff.report.data_text import describe_data, opened_data, text_of

    facts = describe_data(words[0])
    if picture is not None:
        from kdiff.report.data_picture import draw_data

        draw_data(Path(picture), opened_data(words[0])[0], Path(words[0].partition("(")[0]).name)
        facts["picture"] = picture
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else text_of(facts))
    if picture is not None and not as_json:
        print(f"picture     {picture}")
