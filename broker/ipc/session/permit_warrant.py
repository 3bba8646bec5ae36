"""The warrant of a permit (``warrant``): what the authority has permitted.

The authority makes and signs it; the session child that carries the order out checks
it.
"""

from __future__ import annotations

from broker.core.decoding import TypedMessage


class PermitWarrant(TypedMessage, frozen=True, tag="permit"):
    """A permit, with its target, and fields of its request (``authority.permit``)."""

    at: float
    """CLOCK_MONOTONIC, when it was signed."""
    sandbox: str
    record: str
    target: str
    schemes: tuple[str, ...]
    """Those that the rule names."""
    printer: str
    """The printer that the rule names, or none."""
    service: str
    argument: str
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    key: str | None = None
    write: bool = False
    way: str = ""
    about: str = ""
    source: str = ""
    """Who gives, if it is not the sandbox."""
    ahead: bool = False
    """No use is permitted by it: a rule that asks about each was not asked."""
    renewed: bool = False
    """Nothing begins by it: what the permit has begun goes on."""


OF_REQUEST = PermitWarrant.__struct_fields__[6:-1]
"""The fields that are the request's."""
