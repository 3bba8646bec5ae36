"""Holds one descriptor: programs beside the authority, and what starts them.

Processes: authority, helpers, vitrail-local before its fork, viewer, host, brokerctl
(apart); session children, brokerctl (bubblewrap_status); helpers, brokerctl
(compositor_connection); helpers (compositor_descriptors, order_server, starter);
authority, session children, vitrail-local before its fork, viewer, host, brokerctl
(compositor_socket); session children, viewer, host (console_log); vitrail-local before
its fork, viewer, host, brokerctl (descriptor_copies); session children, vitrail-local
before its fork, viewer, host (fork_command, service_manager); host (fork_start);
helpers, session children, vitrail-local before its fork, viewer, host, launch tools
(forked_part); prompt agent, vitrail-access, screen frame (helper_confinement); most
processes (landlock); viewer, worker (order_channel); shipper, launch tools
(program_jail); vitrail-local before its fork, viewer, host (terminal_log); vitrail-
local before its fork, viewer (viewer_confinement).
"""

from __future__ import annotations
