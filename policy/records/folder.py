"""The directory of records below each configuration directory.

The authority, brokerctl and session children read records there; brokerctl also writes
them, and the host those that come with a launch.
"""

from __future__ import annotations

FOLDER = "sandboxes.d"
