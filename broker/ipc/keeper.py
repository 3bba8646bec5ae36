"""Messages of a worker's jailed half to its keeper, and the answers.

A byte or two in one packet, so that the keeper parses nothing.  Both run this.
"""

from __future__ import annotations

CONNECT = b"c"
"""Worker: connect to the compositor.  Answer: CONNECTED, a byte that is the
connection's number, and the socket; or REFUSED and a reason."""
RELEASE = b"r"
"""Worker: the connection of the number in the next byte is over; the keeper
ends it, whether or not that is true."""
CONNECTED = b"+"
REFUSED = b"-"
