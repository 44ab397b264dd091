"""`virnucpro serve`: the service, as an operator starts it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from typing import Annotated

import typer

from consumer.cli.error_messages import failure_in_the_log
from consumer.cli.invocation import typed
from consumer.cli.options import V1Attention, given
from consumer.cli.streams import discard_stdout


def serve(
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the effective settings, secrets masked, and exit.")
    ] = False,
    v1_attention: V1Attention = False,
) -> None:
    """Run the service: read sequences from Kafka, write predictions to Kafka.

    Configured by VIRNUCPRO_* variables. Without any it starts an embedded broker that keeps its data in
    memory, prints its address, and other terminals reach it:

        virnucpro publish reads.fasta --bootstrap 127.0.0.1:PORT
        virnucpro watch --bootstrap 127.0.0.1:PORT
    """
    from consumer.config.settings import load_settings

    overrides = given(v1_attention=v1_attention)
    if print_config:
        typer.echo(json.dumps(load_settings(os.environ, **overrides).masked(), indent=2))
        return

    from consumer.ops import logs

    # For as long as the settings are not read, which may fail too.
    fmt = logs.format_in(os.environ)
    logs.configure("info", fmt)
    with failure_in_the_log() if logs.is_json(fmt) else nullcontext():
        settings = load_settings(os.environ, **overrides)
        logs.configure(settings.log_level, settings.log_format)

        from consumer.runtime import run_service
        from consumer.scoring.loading import load_model

        code = run_service(settings, _announce, load_model)
    raise typer.Exit(code)


def _announce(http: str, bootstrap: str) -> None:
    """Say where the service can be reached: for people on a terminal, as one line of JSON for programs.

    A standard output that takes nothing (closed, a full disk, a reader that is gone) does not stop the service.
    """
    if sys.stdout.isatty():
        text = (
            f"ready: {http} (status page, /metrics, /livez, /readyz), Kafka at {bootstrap}\n"
            f"  {typed('publish')} reads.fasta --bootstrap {bootstrap}\n"
            f"  {typed('watch')} --bootstrap {bootstrap}"
        )
    else:
        text = json.dumps({"event": "ready", "http": http, "bootstrap": bootstrap})
    try:
        print(text, flush=True)
    except OSError as error:
        import structlog

        log = structlog.get_logger(__name__)
        log.warning("announcement_failed", http=http, bootstrap=bootstrap, error=error.strerror)
        discard_stdout()
