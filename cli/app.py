"""The command `taidpt`: the app and the errors that all commands share. Each command stands in a module of its own.

A command is a function with typer's annotations in a module `NAME.py`, listed in `COMMANDS`. Its docstring is its
help; it imports `modeling_taidpt` inside, so that help and version answer at once; it raises `ValueError`,
`OSError`, `TypeError` or `ImportError` with one clear sentence on bad input, and prints with `common`.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .calibrate import calibrate
from .common import BAD_INPUT_CODE, INTERRUPTED_CODE, one_sentence, say
from .demo import demo
from .evaluate import evaluate
from .label import classes, label
from .models import convert, export, push
from .predict import predict
from .tag import tag
from .train import train

COMMANDS = (predict, tag, label, train, calibrate, evaluate, convert, export, push, demo, classes)

BAD_INPUT = (ValueError, OSError, TypeError, ImportError)


class _Commands(TyperGroup):
    """Turns the errors of bad input into one sentence and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("Interrupted.")
            raise typer.Exit(INTERRUPTED_CODE) from None
        except BrokenPipeError:  # whoever read our output has left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(1) from None
        except BAD_INPUT as error:
            if ctx.params.get("traceback"):
                raise
            say(f"taidpt: {one_sentence(error)}")
            raise typer.Exit(BAD_INPUT_CODE) from error


app = typer.Typer(
    name="taidpt",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"taidpt {version('taidpt')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error was raised.")] = False,
) -> None:
    """Tag images with your own labels, learned from captions alone.

    Start with `taidpt predict photo.jpg`: a checkpoint ships with the package.
    """


for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
