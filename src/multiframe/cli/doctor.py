"""`multiframe doctor`: what a server would be given that is called like this, and what is wrong with it."""

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multiframe import errors
from multiframe.cli.faults import CALL, SURROUNDINGS
from multiframe.cli.serving import check_store, kept, roots_of, settings_of
from multiframe.cli.terminal import shown

if TYPE_CHECKING:
    from multiframe.doctor import Installation

__all__ = ["doctor"]


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line and finding, for machines.")] = False,
) -> None:
    """Find what is wrong with an installation: what a server needs is looked at, and nothing is changed.

    Takes what `serve` takes, and looks at the same variables and file: paths, disks, database, port, certificate,
    codecs, clock and limits. Exit codes: 0 nothing is bad, 2 the configuration is, 3 something else.

        multiframe doctor --config /etc/multiframe.toml
    """
    from multiframe.doctor import examine

    root: Any = ctx.find_root().command
    worst = 0
    for finding in examine(_installation(ctx.args, root.commands["serve"])):
        if finding.state == "bad":
            worst = max(worst, CALL if finding.check == "configuration" else SURROUNDINGS)
        if as_json:
            print(json.dumps(finding._asdict()), flush=True)
            continue
        colour = {"good": "green", "warning": "yellow", "bad": "red"}[finding.state]
        told = f"{finding.check:14}{shown(finding.message)}"
        print(f"{typer.style(f'{finding.state:9}', fg=colour) if sys.stdout.isatty() else f'{finding.state:9}'}{told}")
        if finding.remedy:
            print(f"{'':23}-> {shown(finding.remedy)}")
    raise typer.Exit(worst)


def _installation(args: list[str], serve: Any) -> "Installation":
    """Find out what a server would be given that is called like this."""
    from multiframe.doctor import Installation
    from multiframe.settings import Settings

    problem, nowhere = "", ["--", os.devnull]

    def parsed(arguments: list[str]) -> dict[str, Any]:
        try:
            params: dict[str, Any] = serve.make_context("serve", list(arguments)).params
        except typer.BadParameter as error:
            if error.param is None or error.param.name != "paths" or arguments[-2:] == nowhere:
                raise
            params = {**parsed([*arguments, *nowhere]), "paths": []}  # a doctor comes without paths, too
        return {**params, "paths": params["paths"] or []}

    settings = Settings()
    try:
        params = parsed(args)
        settings = settings_of(params)
        check_store(settings)
    except (typer.TyperException, errors.SourceError) as error:
        problem = str(getattr(error, "format_message", error.__str__)())
        params = serve.make_context("serve", [*nowhere], default_map={}, resilient_parsing=True).params
        params["paths"] = []
    folder, catalog = kept(roots_of(params["paths"], settings), params["cache"])
    cert, key = params["tls_cert"], params["tls_key"]
    return Installation(
        list(params["paths"]), folder, params["database"] or catalog, params["host"], params["port"],
        params["workers"], (cert, key) if cert and key else None,
        [str(params[name]) for name in ("store", "spool") if params.get(name)], settings, problem,
    )  # fmt: skip
