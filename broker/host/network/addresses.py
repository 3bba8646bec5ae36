"""The small network that every sandbox with ``network = "user"`` sees.

It is the same everywhere, so that a sandbox learns nothing of the network we are in.
"""

from __future__ import annotations

GUEST = "10.0.2.15"
GATEWAY = "10.0.2.2"
RESOLVER = "10.0.2.3"
"""Passt forwards it to the host's resolver, where that listens on loopback only."""

MTU = 1500
"""Of the interfaces that we make: a VMM's device may know no larger frames."""

TAP = "vitrail0"
"""The device of a VMM in the network namespace of its jail."""
