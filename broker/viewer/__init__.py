"""The viewer part: the user, the rules and the screen.

Processes: vitrail-local, before it is confined, viewer (own_files).
"""

from __future__ import annotations
