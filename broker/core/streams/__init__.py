"""Rules and verdicts of streams, as the viewer sends and the worker applies them.

Processes: viewer, flowguard (network_flows); viewer, worker, brokerctl (sound_rules,
wayland_rules, wayland_verdicts).
"""

from __future__ import annotations
