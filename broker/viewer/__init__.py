"""The viewer part: the user, the rules and the screen.

Processes: viewer, brokerctl (menu_icons, settings_files).
"""

from __future__ import annotations
