"""Why two machines have no link, in the reader's words, and what to do about it.

One table for ``brokerctl status``, ``doctor`` and ``run``.  An end that leaves reports its
reason in its own words, and the other end rewords it.  Sans-IO.

Host and viewer run it, and brokerctl.
"""

from __future__ import annotations

import re

from broker.net.link.wire_types import PAIR_HINT, Role

FORGOTTEN = "this broker forgot the peer's key"
BROKER_ENDS = "this broker ends"
"""Why an epoch ended, when the other end is not the reason."""
VIEWER_ENDS = "the viewer's broker is shutting down"

_OF_PEER = (
    (re.escape(FORGOTTEN), "it has forgotten this broker's key"),
    (re.escape(BROKER_ENDS), "its broker has ended"),
    (re.escape(VIEWER_ENDS), "its broker has ended"),
    (r"\S+ sent nothing for (\d+) s", r"it received nothing from this broker for \1 s"),
    (r"\S+ did not answer within (\d+) s", r"this broker owed it an answer for \1 s"),
)
"""Patterns of what an end reports, and the same said by the other end."""

_RELEASE = "install the same release of Vitrail on both machines"
_STILL = "check whether the {other}'s machine is suspended, stopped or overloaded; the link goes on when it answers"
_START = "start 'vitrail-{other}' on the {other}'s machine; if it runs, run 'brokerctl status' there"
_WAIT = "wait some seconds, because the link connects again; if it does not, run 'brokerctl status' on the {other}"

_CURES = (
    ("is not paired with", PAIR_HINT),
    ("forgot", PAIR_HINT),
    ("know this broker's key", PAIR_HINT),
    ("is not pinned", PAIR_HINT),
    ("version of the link", _RELEASE),
    ("of the link, but", _RELEASE),
    ("times in the last", f"if the two machines have different releases, {_RELEASE}"),
    ("its broker has ended", _START),
    ("sent nothing for", _STILL),
    ("has not answered within", _STILL),
    ("did not", _STILL),
    ("from this broker for", _WAIT),
    ("owed it an answer", _WAIT),
    ("ended without Bye", _WAIT),
    ("the link failed", _WAIT),
)
"""Parts of reasons, and what to do; the first that fits.  ``{other}``: host or viewer."""


_REPORTED = ", and reported: "
"""What precedes a peer's own words in a reason."""


def reason_of_peer(name: str, untrusted_reason: str) -> str:
    """Return why an end has left, from its last message, with its name."""
    for pattern, text in _OF_PEER:
        if match := re.fullmatch(pattern, untrusted_reason):
            return f"{name} left: {match.expand(text)}"
    return f"{name} left{_REPORTED}{untrusted_reason}"


def cure(problem: str, role: Role) -> str:
    """Return what to do about a link's problem, for the end that has the ``role``."""
    # guard: a peer's own words choose no cure
    local_part, _, _ = problem.partition(_REPORTED)
    fits = (text for part, text in _CURES if part in local_part)
    return next(fits, _START).format(other=role.other.name.lower())
