"""Holds one descriptor: programs beside the authority, and what starts them.

Processes: authority, helpers, brokerctl (apart); viewer, shipper, folder mounts, launch
tools, brokerctl (box_filters); helpers, brokerctl (carrying_filters); helpers
(compositor_descriptors, starter); authority, helpers, viewer, brokerctl
(compositor_socket); viewer, host (console_log); most processes (descriptor_filter);
viewer, host, launch tools (forked_part); viewer, worker (order_channel); authority,
helpers, prompt agent, vitrail-access, screen frame (session_filters).
"""

from __future__ import annotations
