"""Holds one descriptor: programs beside the authority, and what starts them.

Processes: authority, helpers, brokerctl (apart); viewer, shipper, folder mounts,
brokerctl (box_filters); helpers, brokerctl (carrying_filters); helpers
(compositor_descriptors, starter); authority, helpers, viewer, brokerctl
(compositor_socket); viewer, host (console_log, forked_part); most processes
(descriptor_filter); viewer, worker (order_channel); authority, helpers, prompt agent,
vitrail-access, screen frame (session_filters).
"""

from __future__ import annotations
