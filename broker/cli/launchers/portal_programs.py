"""Whether programs of a box or container use the sandbox's portal."""

from __future__ import annotations

from broker.cli.run.connect import ask
from broker.core.errors import VitrailError
from broker.core.services import LINKS_VARIABLE, PORTAL_VARIABLES, PRINTER_VARIABLE
from broker.ipc.control import methods
from broker.ipc.control.api import PortalUseRequest


def portal_variables(record: str) -> dict[str, str]:
    """Ask the broker what rules may allow; return variables for a record's programs."""
    try:
        answer = ask(methods.PORTAL_USE, PortalUseRequest(record=record))
    except VitrailError:
        return {}  # an earlier broker's, or one that ends: the start itself reports that
    printer = {PRINTER_VARIABLE: "1"} if answer.prints else {}
    schemes = " ".join(answer.schemes)
    links = {LINKS_VARIABLE: schemes} if schemes else {}
    return {**printer, **links, **(PORTAL_VARIABLES if answer.uses else {})}
