"""Holds one descriptor: programs beside the authority, and what starts them.

Processes: authority, helpers, brokerctl (apart); viewer, shipper, folder mounts, launch
tools, brokerctl (box_filters); viewer, brokerctl (bubblewrap_status); helpers,
brokerctl (carrying_filters, compositor_connection); helpers (compositor_descriptors,
starter); authority, viewer, brokerctl (compositor_socket); viewer, host (console_log);
most processes (descriptor_filter); viewer, host, launch tools (forked_part); prompt
agent, vitrail-access, screen frame (helper_confinement); authority, prompt agent,
vitrail-access, screen frame, brokerctl (landlock); viewer, worker (order_channel);
shipper, launch tools (program_jail); authority, helpers, prompt agent, vitrail-access,
screen frame (session_filters).
"""

from __future__ import annotations
