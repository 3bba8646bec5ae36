"""Rules and verdicts of streams, as the viewer sends and the worker applies them.

Processes: viewer, flowguard (network_flows); vitrail-local before its fork, viewer,
worker, brokerctl (sound_rules); viewer, worker, brokerctl (wayland_rules,
wayland_verdicts).
"""

from __future__ import annotations
