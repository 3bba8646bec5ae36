"""The viewer part: the user, the rules and the screen.

Processes: vitrail-local before its fork, viewer (own_files).
"""

from __future__ import annotations
