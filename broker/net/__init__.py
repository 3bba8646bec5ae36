"""Sockets, and the link of two machines.

Processes: vitrail-local before its fork, viewer, host (activation, hangup); session
children, vitrail-local before its fork, viewer, host, brokerctl (addresses); viewer,
brokerctl (connection_quota); viewer, host (display_header); viewer, host, brokerctl
(endpoints); vitrail-local before its fork, viewer, host, brokerctl (listeners,
refused_descriptors); viewer, vitrail-access, brokerctl (session_bus).
"""

from __future__ import annotations
