"""`virnucpro schemas`: the schemas of the messages, and what a schema registry has of them."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.cli.options import AsJson, command_group

if TYPE_CHECKING:
    from consumer.config.settings import ServiceSettings
    from consumer.registry.schema_registry import SchemaRegistry
    from consumer.registry.subjects import SubjectState
    from schemas import SchemaName

schemas = command_group(
    "Schemas of the messages: look at them, check them, register them. Guide: docs/schemas.md."
)

_CURE = "virnucpro schemas register --apply"


@schemas.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the schemas: what each is called, its versions, its topic and its subject in a registry.

    A row a schema, separated by tabs: name, current version, its fingerprint, topic, subject.

    Example: `virnucpro schemas list --json | jq -r '.[].subject'`
    """
    from consumer.registry.subjects import subject_of
    from schemas import SCHEMA_NAMES
    from schemas.compatibility import COMPATIBILITY
    from schemas.contracts import releases

    topics = _topics(_settings())
    rows = [
        {
            "name": name,
            "version": releases(name)[-1].version,
            "versions": [release.version for release in releases(name)],
            "fingerprint": releases(name)[-1].fingerprint.hex(),
            "compatibility": COMPATIBILITY[name],
            "topic": topics[name],
            "subject": subject_of(topics[name]),
        }
        for name in SCHEMA_NAMES
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print("\t".join(str(row[name]) for name in ("name", "version", "fingerprint", "topic", "subject")))


@schemas.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="sequence_record, prediction or dead_letter.")],
    version: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="A released version. [default: the current one]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a schema, as a registry or a code generator takes it.

    With --json the schema is a field of an object that has its name, version and fingerprint too.

    Example: `virnucpro schemas show prediction > prediction.avsc`
    """
    from consumer.cli.error_messages import UserError
    from consumer.errors import ExitCode
    from schemas import SCHEMA_NAMES
    from schemas.contracts import releases

    if name not in SCHEMA_NAMES:
        raise UserError(f"no schema {name!r}; there are {', '.join(SCHEMA_NAMES)}", ExitCode.USAGE)
    known = {release.version: release for release in releases(name)}
    found = known.get(max(known) if version is None else version)
    if found is None:
        there = ", ".join(map(str, known))
        raise UserError(f"{name} has no version {version}; there are {there}", ExitCode.USAGE)
    if not as_json:
        print(found.text.rstrip("\n"))
        return
    head = {"name": name, "version": found.version, "fingerprint": found.fingerprint.hex()}
    print(json.dumps(head | {"schema": found.schema}, indent=2))


@schemas.command()
def check(as_json: AsJson = False) -> None:
    """Check that the schemas keep their promise to every released version, and what the registry has of them.

    With VIRNUCPRO_SCHEMA_REGISTRY_URL, today's schemas must be registered under the subjects of the topics and be
    compatible by the registry's own check. Nothing is changed. The exit code is 0 if everything is as it should be.

    Example: `VIRNUCPRO_SCHEMA_REGISTRY_URL=http://localhost:8081 virnucpro schemas check`
    """
    from consumer.cli.error_messages import UserError, tell
    from consumer.registry.subjects import look_at_all
    from schemas import SCHEMA_NAMES
    from schemas.compatibility import evolution_problems

    problems = {name: evolution_problems(name) for name in SCHEMA_NAMES}
    states: list[SubjectState] = []
    settings = _settings()
    with ExitStack() as stack:
        registry = _registry(settings, stack)
        if registry is not None:
            states = _answer(lambda: look_at_all(registry, _topics(settings)))
    wrong = [f"{name}: {line}" for name, lines in problems.items() for line in lines]
    wrong += [f"{state.subject}: {line}" for state in states for line in _faults(state)]
    if as_json:
        found = {"ok": not wrong, "problems": wrong, "subjects": [_as_dict(state) for state in states]}
        print(json.dumps(found, indent=2))
    else:
        for name in SCHEMA_NAMES:
            print(f"{name}: {'; '.join(problems[name]) or 'compatible with every released version'}")
        for state in states:
            print(f"{state.subject}: {'; '.join(_faults(state)) or _registered(state)}")
        if not states:
            tell("the registry is not checked: VIRNUCPRO_SCHEMA_REGISTRY_URL is not set")
    if wrong:
        raise UserError(f"{len(wrong)} problems: see `{_CURE}`" if states else f"{len(wrong)} problems")


@schemas.command()
def register(
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it. [default: show what would change, and change nothing]")
    ] = False,
    keep_level: Annotated[
        bool, typer.Option("--keep-level", help="Leave the compatibility level of the subjects as it is.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register the schemas under the subjects of the topics. Without --apply it only shows what would change.

    Released versions are registered in their order, and the subject's compatibility level is set before, so that the
    registry checks each of them: BACKWARD_TRANSITIVE for the input, FULL_TRANSITIVE for predictions and dead letters.

    Example: `VIRNUCPRO_SCHEMA_REGISTRY_URL=http://localhost:8081 virnucpro schemas register --apply`
    """
    from consumer.cli.error_messages import UserError, tell
    from consumer.config.registry_options import REGISTRY_URL
    from consumer.errors import ExitCode
    from consumer.registry.subjects import apply as apply_to
    from consumer.registry.subjects import look_at_all

    settings = _settings()
    topics = _topics(settings)
    with ExitStack() as stack:
        registry = _registry(settings, stack)
        if registry is None:
            raise UserError(f"no schema registry is named: set {REGISTRY_URL}", ExitCode.USAGE)
        states = _answer(lambda: look_at_all(registry, topics))
        plans = [(state, _plan(state, keep_level)) for state in states]
        if apply:
            for state, plan in plans:
                if plan:
                    _answer(partial(apply_to, registry, state, keep_level))
        after = _answer(lambda: look_at_all(registry, topics)) if apply else states
    if as_json:
        changes = {state.subject: plan for state, plan in plans}
        rows = [_as_dict(state) | {"changes": changes[state.subject]} for state in after]
        print(json.dumps({"applied": apply, "subjects": rows}, indent=2))
        return
    for (state, plan), now in zip(plans, after, strict=True):
        done = "" if apply else "would "
        lines = "; ".join(f"{done}{line}" for line in plan)
        print(f"{state.subject}: {lines or 'nothing to change'}{f' ({_registered(now)})' if apply else ''}")
    if not apply and any(plan for _, plan in plans):
        tell(f"nothing was changed: `{_CURE}` does it")


def _settings() -> ServiceSettings:
    from consumer.config.settings import load_settings

    return load_settings(os.environ)


def _topics(settings: ServiceSettings) -> dict[SchemaName, str]:
    return {
        "sequence_record": settings.input_topic,
        "prediction": settings.output_topic,
        "dead_letter": settings.dlq_topic,
    }


def _registry(settings: ServiceSettings, stack: ExitStack) -> SchemaRegistry | None:
    from consumer.registry.service_codec import open_registry

    return open_registry(settings, stack)


def _answer(call: Any) -> Any:
    """What a call to the registry gives; an outage is an error for people."""
    from consumer.cli.error_messages import UserError
    from schemas.codecs import DependencyUnavailable

    try:
        return call()
    except DependencyUnavailable as error:
        raise UserError(f"{error}: check VIRNUCPRO_SCHEMA_REGISTRY_URL and its credentials") from error


def _plan(state: SubjectState, keep_level: bool) -> list[str]:
    """What `register --apply` does for one subject, a line each."""
    from consumer.registry.subjects import wanted_level

    lines = []
    if not keep_level and state.level != wanted_level(state.name):
        lines.append(f"set the compatibility level {wanted_level(state.name)} (now {_level(state)})")
    lines += [f"register version {version} of {state.name}" for version in state.missing]
    return lines


def _faults(state: SubjectState) -> list[str]:
    """What is wrong with one subject, a line each."""
    found = []
    if state.current is None:
        found.append(f"today's {state.name} is not registered")
    if state.incompatible:
        versions = ", ".join(map(str, state.incompatible))
        found.append(f"the registry finds today's {state.name} incompatible with version {versions}")
    return found


def _registered(state: SubjectState) -> str:
    if state.current is None:
        return f"today's {state.name} is not registered"
    return f"version {state.current.version}, id {state.current.schema_id}, level {_level(state)}"


def _level(state: SubjectState) -> str:
    return state.level or "the registry's own"


def _as_dict(state: SubjectState) -> dict[str, Any]:
    from consumer.registry.subjects import wanted_level

    current = state.current
    return {
        "schema": state.name,
        "topic": state.topic,
        "subject": state.subject,
        "version": None if current is None else current.version,
        "id": None if current is None else current.schema_id,
        "guid": None if current is None or current.guid is None else str(current.guid),
        "missing": list(state.missing),
        "foreign": list(state.foreign),
        "incompatible": list(state.incompatible),
        "level": state.level,
        "wanted_level": wanted_level(state.name),
    }
