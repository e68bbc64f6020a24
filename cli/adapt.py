"""`taidpt adapt`: learns from the user's own photographs, without a label."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .common import (
    DeviceOption,
    JsonOption,
    changed_folder,
    load_model,
    print_json,
    save_changed,
    say,
    stdout,
    working,
)


def adapt(
    model: Annotated[str, typer.Argument(help="Folder of the model; or a name or Hub repository, with --output.")],
    photos: Annotated[
        list[str],
        typer.Argument(
            help="At least 100 photographs: folder, .txt list, .parquet files or .tar archives.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the adapted model, instead of its own.")
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn from photographs of yours, without a label.

    The model looks at each photograph once and learns how its labels look in parts of photographs like these: a
    classifier of patches is joined to its prompts and saved with it. No label, no caption and no training is needed;
    a few hundred photographs of the kind that you want to tag are better than a hundred. Probabilities and thresholds
    that were fitted before keep their meaning. A run that was stopped goes on where it was. A photograph that cannot
    be read is left out and counted.

    **Examples**

    - `taidpt adapt runs/pets photos`
    - `taidpt adapt taidpt-coco80 photos --output runs/mine`
    - `taidpt adapt org/taidpt-pets list.txt shards/*.tar --output runs/pets`
    """
    target = changed_folder(model, output)
    with working(as_json):
        from modeling_taidpt.evaluation import fit_visual_classifier

        loaded = load_model(model, device)
        report = fit_visual_classifier(loaded, photos, progress=sys.stderr.isatty())
        save_changed(loaded, model, target)
    if as_json:
        print_json({"model": str(target), **report, "labels": loaded.config.num_labels})
        return
    missing = loaded.config.num_labels - report["classes"]
    if report["unreadable"]:
        say(f"{report['unreadable']} photographs could not be read and were left out.")
    if missing:
        say(
            f"No part of a photograph looked like {missing} of {loaded.config.num_labels} labels: more will help them."
        )
    stdout().print(f"{target} is adapted to {report['photographs']} photographs: use it as before.")


__all__ = ["adapt"]
