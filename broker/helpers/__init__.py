"""Holds one descriptor: programs beside the authority, and what starts them.

Processes: authority, helpers, vitrail-local, before it is confined, viewer, brokerctl
(apart); session children, shipper, folder mounts, launch tools, brokerctl
(box_filters); session children, brokerctl (bubblewrap_status); helpers, brokerctl
(carrying_filters, compositor_connection); helpers (compositor_descriptors, starter);
most processes (compositor_socket, descriptor_filter, landlock, session_filters);
session children, viewer, host (console_log); vitrail-local, before it is confined,
viewer, host, launch tools (forked_part); prompt agent, vitrail-access, screen frame
(helper_confinement); viewer, worker (order_channel); shipper, launch tools
(program_jail); vitrail-local, before it is confined, viewer (viewer_confinement,
viewer_filter).
"""

from __future__ import annotations
