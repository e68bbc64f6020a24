"""The command `taidpt`: the app and the errors that all commands share. Each command lives in a module of its own.

A command is a function with typer's annotations, listed in `COMMANDS` with its module and the first sentence of its
help. Its module is imported when the command is called; `modeling_taidpt` is imported inside the function. So help and
version answer at once. A command raises `ValueError`, `OSError`, `TypeError` or `ImportError` with one clear sentence
on bad input, and prints with `common`.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup, TyperOption

from . import __version__
from .common import BAD_INPUT_CODE, INTERRUPTED_CODE, one_sentence, say
from .wording import in_options, warnings_in_options

COMMANDS = {  # name: module, first sentence of its help
    "predict": ("predict", "Tag images with every label that fits."),
    "tag": (
        "tag",
        "Tag any number of images into Parquet, CSV or JSON lines: path, labels, scores, error.",
    ),
    "gallery": ("pages", "Make a page of what `tag` found, that opens from disk: labels, scores, filters."),
    "label": ("label", "Find the labels that captions name, count them, and write them down if wanted."),
    "train": ("train", "Learn prompts for your labels from captions; no image is needed."),
    "calibrate": ("calibrate", "Make the scores of a model probabilities, and find its thresholds."),
    "adapt": ("adapt", "Learn from photographs of yours, without a label."),
    "evaluate": (
        "evaluate",
        "Measure models on labelled images: mAP of every branch with bootstrap intervals, and differences of models.",
    ),
    "convert": (
        "models",
        "Convert a published file: OpenAI's CLIP, or prompts that the published TaI-DPT code learned.",
    ),
    "export": ("models", "Export a model for use without this package: image in, probabilities out."),
    "push": ("models", "Push a model to the Hub, with its processors, its card and the code that runs it."),
    "demo": (
        "pages",
        "Serve a web page that tags photographs, until Ctrl-C: several at once, your labels, heatmaps, CSV.",
    ),
    "classes": ("label", "List the labels of a checkpoint, or the classes and synonyms of a table."),
}

BAD_INPUT = (ValueError, OSError, TypeError, ImportError)
# What PyTorch says when the machine fails, and the sentence for it.
NO_MEMORY = "There is not enough memory: run the same command again with a smaller batch size."
FAILURES = {
    "DataLoader worker": "A process that reads data was killed, perhaps for want of memory: run the command again.",
    "out of memory": NO_MEMORY,
    "can't allocate memory": NO_MEMORY,
}
CONTEXT = {"help_option_names": ["-h", "--help"]}


class _Commands(TyperGroup):
    """Imports a command when it is called; turns the errors of bad input into one sentence and exit code 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, None if there is none."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            function = getattr(import_module(f".{COMMANDS[cmd_name][0]}", __package__), cmd_name)
            single = typer.Typer(add_completion=False, rich_markup_mode="markdown", context_settings=CONTEXT)
            single.command(cmd_name)(function)
            self.commands[cmd_name] = _plain_types(typer.main.get_command(single), ctx)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name, or a usage error that suggests the nearest name."""
        if args and args[0] not in COMMANDS:
            for name in COMMANDS:  # typer suggests among the commands that it holds
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with warnings_in_options(lambda: self._options(ctx)):
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
            say(f"taidpt: {in_options(one_sentence(error), self._options(ctx))}")
            raise typer.Exit(BAD_INPUT_CODE) from error
        except RuntimeError as error:
            sentence = next((said for sign, said in FAILURES.items() if sign in str(error)), None)
            if sentence is None or ctx.params.get("traceback"):
                raise
            say(f"taidpt: {sentence}")
            raise typer.Exit(BAD_INPUT_CODE) from error

    def _options(self, ctx: Any) -> set[str]:
        """The options of the command that is called."""
        command = self.commands.get(ctx.invoked_subcommand)
        parameters = () if command is None else command.params
        return {name for one in parameters for name in (*one.opts, *one.secondary_opts) if name.startswith("--")}


def _checked(process: Any, parameter: Any) -> Any:
    """What reads the value of a parameter, but refuses an empty text, as of an unset variable in a script.

    As a path it would be the folder we are in.
    """

    def process_value(ctx: Any, value: Any) -> Any:
        if "" in (value if isinstance(value, (list, tuple)) else [value]) and not ctx.resilient_parsing:
            name = max(parameter.opts, key=len) if isinstance(parameter, TyperOption) else parameter.name
            raise ValueError(f"A value of {name} is empty: write one, or leave it out.")
        return process(ctx, value)

    return process_value


def _plain_types(command: Any, ctx: Any) -> Any:
    """A command that takes no empty text, and whose help has no type for flags and arguments and a short one else."""
    context = typer.Context(command, parent=ctx, **CONTEXT)
    for one in command.get_params(context):
        one.process_value = _checked(one.process_value, one)
        if getattr(one, "is_flag", False):
            one.metavar = ""
        elif not isinstance(one, TyperOption):
            one.display_type_rich = lambda ctx: None  # `<list[str]>`
        elif one.metavar is None and hasattr(one, "display_type"):  # typer 0.26 and later
            kind = str(one.display_type(context)).replace(" range", "")  # which ranges follow anyway
            one.metavar = re.sub(r"list\[(.*)\]", r"\1", kind)
    return command


app = typer.Typer(
    name="taidpt",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes as long to import as typer itself; the help of a command has its markup
    context_settings=CONTEXT,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"taidpt {__version__}")
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


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
