"""The command as a user calls it: in a process of its own, or in this one, where only what it says is of interest."""

import os
import subprocess
import sys
from collections.abc import Mapping

from typer.testing import CliRunner

from multiframe import cli
from multiframe.cli import faults

type Done = subprocess.CompletedProcess[bytes]


def run(*arguments: object, env: Mapping[str, str] | None = None) -> Done:
    """Run it in a process of its own: half a second, of which it works for little."""
    done = subprocess.run(
        [sys.executable, "-m", "multiframe", *map(str, arguments)],
        capture_output=True, timeout=120, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert b"Traceback" not in done.stderr
    return done


def call(*arguments: object, env: Mapping[str, str] | None = None) -> Done:
    """Do here what that process does: no signal, no encoding of a terminal, no broken pipe."""
    given = [*map(str, arguments)]
    with CliRunner().isolation(env=env) as (out, err, _):
        code = faults.run(lambda: cli.app(given, prog_name="multiframe"))
        sys.stdout.flush()
        sys.stderr.flush()
        return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())
