"""Checks of ``brokerctl doctor`` where the audit log is shipped."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from broker.cli.doctor.finding import Context, Finding, fail, ok, warn
from broker.core.errors import VitrailError
from broker.core.escape import printable
from broker.helpers.shipper.config import AnyTarget, load_config
from broker.helpers.shipper.cursor import load_cursor
from broker.helpers.shipper.run import make_target
from broker.helpers.shipper.state import find_config

_NAME = "shipping"


async def check_shipping(context: Context) -> Sequence[Finding]:
    """Whether ``ship.toml`` can be used, and every receiver be talked to."""
    path = find_config(context.paths.config)
    if path is None:
        return [ok(_NAME, "audit shipping is not configured: there is no ship.toml")]
    try:
        config = load_config(path)
    except VitrailError as error:
        return [fail(_NAME, str(error), error.hint)]
    return [
        await trio.to_thread.run_sync(_target, context, target, abandon_on_cancel=True)
        for target in config.target
    ]


def _target(context: Context, config: AnyTarget) -> Finding:
    """Asks the receiver for a log that it cannot have: it must answer."""
    what = f"'{config.name}' ({printable(config.where(), 80)})"
    try:
        target = make_target(config)
        try:
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
    return ok(_NAME, f"{what} has {cursor.sequence} events")
