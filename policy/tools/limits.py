"""Limits of the tools that brokerctl has for rules and records; no daemon reads them."""

from __future__ import annotations

IMPORT_BYTES = 8 << 20
"""A file of another system that is imported; a qubes.xml has some 100 KiB."""

IMPORT_FILES = 1024
"""Rule files of another system, as many as our set may have."""

WORLD_BYTES = 64 << 20
"""A world in JSON, or one line of a batch."""

LINT_CAUSES = 500
"""Rules without effect for which lint names the lines that cause it; to name
them costs a walk over the rules before."""

LINT_SOURCES = 64
"""Sources that are looked at one by one; of more, one source of each class."""

LINT_TRIES = 16
"""Sources, and targets of each, that lint tries to find one to which an 'ask'
offers something, by the fast way; then it looks at all."""

# lint prefers missing findings to false ones. The statements of `lint` about asks are
# computed for one source of each class that rules tell apart, and are bounded
# (`LINT_CALLS`); combinations that were not examined are not reported.
LINT_CALLS = 400_000
"""Calls that lint looks at for asks that offer nothing (each counts once more
for 64 rules about its service); a second or two.  Further cases are
not complained about."""

LINT_OFFERS = 1024
"""Calls for which lint keeps the offered targets; each may be a thousand names."""

LINT_COLOURS = 256
"""Different colours that lint compares, each with each and for each sight."""

LINT_HINTS = 20
"""Unknown names for which lint looks for the intended one: each is
compared with every sandbox."""

GRAPH_NODES = 48
"""Boxes of one picture; with more, the arrows cannot be followed."""

DIFF_CALLS = 2_000_000
"""Classes of calls that a comparison of two sets asks: a minute's work."""

CONFIRM_SECONDS = (1, 3600)
"""How long an edit may be on trial: an hour is a long look."""
