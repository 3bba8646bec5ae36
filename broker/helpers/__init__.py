"""Holds one descriptor: programs beside the authority, and what starts them.

Processes: viewer, shipper, folder mounts, brokerctl (box_filters); keeper
(compositor_descriptors); authority, viewer, keeper, brokerctl (compositor_socket);
viewer, host (console_log, forked_part); security key, frameguard, netguard, switch,
flowguard (descriptor_filter); viewer, worker (order_channel); starter (starter).
"""

from __future__ import annotations
