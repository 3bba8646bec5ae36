"""Holds one descriptor: programs beside the authority, and what starts them.

Processes: authority, helpers, vitrail-local, launcher, viewer, host, brokerctl (apart);
session children, brokerctl (bubblewrap_status); helpers, brokerctl
(compositor_connection); helpers (compositor_descriptors, starter); authority, session
children, vitrail-local, launcher, viewer, host, brokerctl (compositor_socket); session
children, viewer, host (console_log); vitrail-local, launcher, viewer, host, brokerctl
(descriptor_copies); session children, vitrail-local, launcher, viewer, host
(fork_command, service_manager); host (fork_start); helpers, session children, vitrail-
local, launcher, viewer, host, launch tools (forked_part); prompt agent, vitrail-access,
screen frame (helper_confinement); most processes (landlock); viewer, worker
(order_channel); shipper, launch tools (program_jail); vitrail-local, launcher, viewer,
host (terminal_log); vitrail-local, launcher, viewer (viewer_confinement).
"""

from __future__ import annotations
