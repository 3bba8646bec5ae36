"""Types of contents and keys of pastes, that viewer and worker both name.

Processes: viewer, worker, brokerctl.
"""

from __future__ import annotations
