"""Sockets, and the link of two machines.

Most of it runs in the host and the viewer; a pairing runs a part of the link in
brokerctl.
"""

from __future__ import annotations
