"""Whether programs of a box or container use the sandbox's portal."""

from __future__ import annotations

from broker.cli.run.connect import ask
from broker.core.errors import VitrailError
from broker.core.services import PORTAL_VARIABLES
from broker.ipc.control import methods
from broker.ipc.control.api import PortalUseRequest


def portal_variables(record: str) -> dict[str, str]:
    """Return the variables for programs of a record; empty if a rule denies a part."""
    try:
        answer = ask(methods.PORTAL_USE, PortalUseRequest(record=record))
    except VitrailError:
        return {}  # an earlier broker's, or one that ends: the start itself reports that
    return dict(PORTAL_VARIABLES) if answer.uses else {}
