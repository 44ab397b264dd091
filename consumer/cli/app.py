"""The entry point `virnucpro`: puts the commands together and turns errors into one line and an exit code.

The command modules import torch, Kafka and the rest inside their functions, so that `virnucpro --help`,
`publish` and `watch` start quickly and never load torch.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer
from typer.exceptions import TyperException

from consumer.cli import streams
from consumer.cli.commands.calibrate import calibrate
from consumer.cli.commands.demo import demo
from consumer.cli.commands.devices import devices
from consumer.cli.commands.divergence import divergence
from consumer.cli.commands.dlq import dlq
from consumer.cli.commands.embed import embed
from consumer.cli.commands.evaluate import evaluate
from consumer.cli.commands.frames import frames
from consumer.cli.commands.models import models
from consumer.cli.commands.predict import predict
from consumer.cli.commands.publish import publish
from consumer.cli.commands.schemas import schemas
from consumer.cli.commands.serve import serve
from consumer.cli.commands.topics import topics
from consumer.cli.commands.train_head import train_head
from consumer.cli.commands.version import one_line, version
from consumer.cli.commands.watch import watch
from consumer.cli.error_messages import exit_code_of, known_errors, once, print_error, show_warning
from consumer.cli.options import HELP_NAMES
from consumer.cli.verbosity import Verbosity, set_verbosity
from consumer.errors import ExitCode
from virnucpro_core.errors import SequenceFileWarning

app = typer.Typer(
    name="virnucpro",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings=HELP_NAMES,
    pretty_exceptions_enable=False,
    epilog="Guide to every command: docs/cli.md. Settings are environment variables VIRNUCPRO_*; "
    "`virnucpro serve --print-config` shows them.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(one_line())
        raise typer.Exit()


@app.callback()
def virnucpro(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Is a nucleotide sequence viral? VirNucPro's predictions as a Kafka service and on the command line.

    Begin with `virnucpro demo`, or score your own file: `virnucpro predict reads.fasta`.
    """


_INTERRUPTED = 130
_SCIENCE = "For a file"
_SERVICE = "For a Kafka broker"
_START = "To begin with"

app.command(rich_help_panel=_START)(demo)
app.command(rich_help_panel=_START)(version)
app.command(rich_help_panel=_SCIENCE)(predict)
app.command(rich_help_panel=_SCIENCE)(evaluate)
app.command(rich_help_panel=_SCIENCE)(frames)
app.add_typer(models, name="models", rich_help_panel=_SCIENCE)
app.command(rich_help_panel=_SCIENCE)(devices)
app.command(rich_help_panel=_SCIENCE)(divergence)
app.command(rich_help_panel=_SCIENCE)(embed)
app.command("train-head", rich_help_panel=_SCIENCE)(train_head)
app.command(rich_help_panel=_SCIENCE)(calibrate)
app.command(rich_help_panel=_SERVICE)(serve)
app.command(rich_help_panel=_SERVICE)(publish)
app.command(rich_help_panel=_SERVICE)(watch)
app.add_typer(schemas, name="schemas", rich_help_panel=_SERVICE)
app.add_typer(topics, name="topics", rich_help_panel=_SERVICE)
app.add_typer(dlq, name="dlq", rich_help_panel=_SERVICE)


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code; `arguments` default to the process's own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", SequenceFileWarning)
            # Once a file, however often it is read. The filter "default" forgets what was shown when a module that is
            # imported meanwhile, as torch, sets a filter of its own.
            warnings.showwarning = once(show_warning)
            result = app(arguments, prog_name="virnucpro", standalone_mode=False)
    except SystemExit:  # typer's answer to a reader that closed the pipe, or a signal handler's
        raise
    except TyperException as error:
        if not error.format_message():  # no command was named, and the help has been printed
            return error.exit_code
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "virnucpro"
        said = (
            error.format_message().rstrip(".").replace(": Value error, ", ": ")
        )  # pydantic's, by way of typer
        print_error(f"{said} (see: {command} --help)")
        return error.exit_code
    except known_errors() as error:
        print_error(str(error))
        return exit_code_of(error)
    except OSError as error:
        streams.report_os_error(error)
        return ExitCode.RUNTIME
    finally:
        set_verbosity(Verbosity.NORMAL)
    return result if isinstance(result, int) else 0


def main() -> None:
    """What the command `virnucpro` calls, by way of consumer/cli/entry.py."""
    streams.prepare()
    try:
        code = run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:  # before or after the command itself, which answers with the same code
        code = _INTERRUPTED
    except Exception:
        # A library may turn the interrupt that it is in the middle of into an error of its own.
        if streams.code_after_signal() is None:
            raise
        code = ExitCode.RUNTIME
    code = streams.finish(code)
    # All is written: Python and torch only tidy up, and would show where a signal interrupts that.
    streams.end_at_once()
    if code != ExitCode.OK:
        code = streams.code_after_signal() or code
    if code == _INTERRUPTED:
        # After an interrupt that was handled Python may still end itself by SIGINT, which is not the documented code.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
