"""The varlink service that brokerctl and other programs talk to.

The authority has the socket and serves its own methods; calls of the others it passes
to the viewer or the host, which serve them.
"""

from __future__ import annotations
