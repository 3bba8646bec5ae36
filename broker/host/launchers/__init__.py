"""One folder for each launch kind.

Processes: brokerctl (piped_stderr); host, brokerctl (session_bus).
"""

from __future__ import annotations
