"""USB devices of this machine: seen, bounded by its records, handed over.

Processes: host, brokerctl (render_nodes).
"""

from __future__ import annotations
