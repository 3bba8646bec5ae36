"""Sockets, and the link of two machines.

Processes: viewer, host (activation, display_header, hangup); viewer, host, brokerctl
(addresses, endpoints, listeners); viewer, brokerctl (connection_quota); viewer,
vitrail-access, brokerctl (session_bus).
"""

from __future__ import annotations
