"""`ulora init`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from registry.cli.options import dry_run_option, json_option, options_as
from registry.cli.output import Output, facts
from registry.errors import BadSetting, UloraError
from registry.names import check_model
from registry.settings import DEFAULT_MODEL, find
from registry.usecases.init import POLICIES

if TYPE_CHECKING:
    from registry.usecases.init import InitFiles, InitLook, InitOptions

_NO_STORE = BadSetting("no store was given", hint="pass --store s3://BUCKET/PREFIX; `ulora dev` starts one here")


@dataclass(frozen=True)
class InitAnswers:
    """The options as they were given: what is None is asked for, or has a default."""

    model: str | None
    store: str | None
    tracking_uri: str | None
    endpoint_url: str | None
    policy: str | None
    force: bool


@click.command("init", short_help="Write ulora.toml and a policy, check store and MLflow.")
@click.option("--model", metavar="NAME", help="The registered model. [ULORA_MODEL; default aads-ulora]")
@click.option("--store", metavar="URL", help="The store, s3://BUCKET/PREFIX. [ULORA_STORE]")
@click.option("--tracking-uri", metavar="URL", help="The MLflow server. [MLFLOW_TRACKING_URI; default none]")
@click.option("--endpoint-url", metavar="URL", help="The S3 server, if it is not AWS. [ULORA_S3_ENDPOINT]")
@click.option(
    "--policy", type=click.Choice(POLICIES),
    help="The gates to copy into policy.yaml, to be edited; `none`: no file, the default ones hold.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace files that exist; the old ones are kept as NAME~.")
@click.option("--yes", is_flag=True, help="Ask nothing: what is left out has its default.")
@dry_run_option
@json_option
@options_as(InitAnswers, "given")
def init_command(out: Output, *, given: InitAnswers, yes: bool, dry_run: bool) -> None:
    """Write ulora.toml, and policy.yaml to be edited; then look whether the store and MLflow answer.

    On a terminal it asks for what is left out; elsewhere, and with --yes or --json, it does not. No password is
    written. The files are written also where a server does not answer (exit status 7). Nothing in the store or
    MLflow is changed.

    \b
    Examples:
      ulora init
      ulora init --store s3://my-bucket/ulora --tracking-uri https://mlflow.example.com --yes
      ulora init --store s3://my-bucket/ulora --policy none --dry-run
    """
    from registry.usecases.init import look, prepare, write
    from registry.wiring import Wiring

    asks = not (yes or out.as_json) and sys.stdin.isatty() and sys.stderr.isatty()
    prepared = prepare(_options(given, asks))
    if not dry_run:
        write(prepared)
    for name in prepared.hidden:
        out.note(f"{name} is set to something else, and counts before ulora.toml")
    found = look(Wiring(prepared.settings))
    out.answer(_document(prepared, found, dry_run), _text(prepared, found, dry_run))
    if found.problems:
        raise found.problems[0]


def _options(given: InitAnswers, asks: bool) -> InitOptions:
    """What was given, else what a variable says, else what a person answers or the default.

    Raises:
        BadSetting: nothing says which store.
    """
    from registry.usecases.init import InitOptions, check_mlflow, check_store

    def known(name: str, default: str = "") -> str:
        return str(find(name, getattr(given, name), {})[0] or default)

    store, model = known("store"), known("model", DEFAULT_MODEL)
    tracking_uri, endpoint_url, policy = known("tracking_uri"), known("endpoint_url"), given.policy or "default"
    if asks:
        store = given.store or _ask("Store, s3://BUCKET/PREFIX (`ulora dev` makes one here)", store, check_store)
        endpoint_url = given.endpoint_url or _ask(
            "S3 server, empty for AWS", endpoint_url, lambda answer: check_store(store, answer), may_be_empty=True
        )
        tracking_uri = given.tracking_uri or _ask(
            "MLflow server, empty for none", tracking_uri, check_mlflow, may_be_empty=True
        )
        model = given.model or _ask("Model", model, check_model)
        policy = given.policy or click.prompt("Policy", default=policy, type=click.Choice(POLICIES), err=True)
    if not store:
        raise _NO_STORE
    return InitOptions(model, store, tracking_uri or None, endpoint_url or None, policy, given.force)


def _ask(text: str, default: str, check: Callable[[str], object], *, may_be_empty: bool = False) -> str:
    """What a person answers, who is asked again where it is invalid."""

    def checked(answer: str) -> str:
        answer = answer.strip()
        try:
            if answer or not may_be_empty:
                check(answer)
        except UloraError as error:
            raise click.UsageError(f"{error}; {error.hint}" if error.hint else str(error)) from error
        return answer

    shown = default if default or may_be_empty else None
    return str(click.prompt(text, default=shown, value_proc=checked, err=True))


def _document(prepared: InitFiles, found: InitLook, dry_run: bool) -> dict[str, object]:
    problems = [str(problem) for problem in found.problems]
    return {"files": list(prepared.files), "dry_run": dry_run, "store": found.store, "mlflow": found.mlflow,
            "problems": problems, "next": found.next}  # fmt: skip


def _text(prepared: InitFiles, found: InitLook, dry_run: bool) -> str:
    did = "would write" if dry_run else "wrote"
    lines = [f"{did} {' and '.join(map(str, prepared.files))}"]
    if dry_run:
        lines += [f"  {line}" for line in next(reversed(prepared.files.values())).decode().splitlines()]
    lines.append(facts({prepared.options.store: found.store, prepared.options.tracking_uri or "MLflow": found.mlflow}))
    return "\n".join([*lines, "", "next:", *(f"  {command}" for command in found.next)])
