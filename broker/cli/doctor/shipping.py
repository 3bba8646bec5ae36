"""Checks of ``brokerctl doctor`` of the shipping of the audit log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from broker.cli.doctor.finding import Context, Finding, fail, ok, warn
from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import printable
from broker.helpers.shipper.config import AnyTarget, JsonlTarget, load_config
from broker.helpers.shipper.cursor import load_cursor
from broker.helpers.shipper.run import make_target
from broker.helpers.shipper.state import find_config
from broker.ipc.in_thread import in_thread

_NAME = "shipping"


async def check_shipping(context: Context) -> Sequence[Finding]:
    """Check ``ship.toml``, and that every receiver answers."""
    path = find_config(context.paths.config)
    if path is None:
        return [ok(_NAME, "audit shipping is not configured: ship.toml does not exist")]
    try:
        config = load_config(path)
    except VitrailError as error:
        return [fail(_NAME, str(error), error.hint)]
    return [
        await in_thread(_target, context, target, abandon_on_cancel=True)
        for target in config.target
    ]


def _target(context: Context, config: AnyTarget) -> Finding:
    """Check that a receiver answers, by asking for a log that it cannot have.

    A file is looked at only: to ask it begins it, and cuts off the line that a running
    shipper writes.
    """
    what = f"'{config.name}' ({printable(config.where(), 80)})"
    try:
        target = make_target(config)
        try:
            # guard: doctor changes no file of the log
            if isinstance(config, JsonlTarget):
                _require_writable(Path(config.path))
            else:
                target.position(bytes(16))
        finally:
            target.close()
        cursor = load_cursor(context.paths.shipping, config.name)
    except VitrailError as error:
        return warn(_NAME, f"{what}: {error}", error.hint)
    if cursor.problem:
        return warn(
            _NAME, f"{what}: {printable(cursor.problem)}", "brokerctl audit ship"
        )
    return ok(
        _NAME,
        f"{what} has received {cursor.sequence} events",
    )


def _require_writable(path: Path) -> None:
    """Raise UpstreamError if the shipper cannot write or create a file."""
    if path.exists():
        if not os.access(path, os.R_OK | os.W_OK):
            raise UpstreamError(
                f"this user cannot read and write {path}",
                hint=f"to see its owner and mode, run 'ls -l {path}'",
            )
    elif not os.access(path.parent, os.R_OK | os.W_OK):
        raise UpstreamError(
            f"cannot create {path}: its directory does not exist, or this user "
            "cannot read and write it",
            hint="create the directory as this user, or set another path in ship.toml",
        )
