"""Limits of the icons that sandboxes show in the desktop's panel."""

from __future__ import annotations

ICON_PIXELS = 48
"""Width and height of a picture: panels have 16 to 32, twice that on a fine screen."""

ICON_BYTES = 4 * ICON_PIXELS * ICON_PIXELS

ICON_TITLE_CHARS = 60
"""Characters of a title, as the guest sends it."""

ICONS_PER_RECORD = 4
"""Shown at one time; further ones wait for a place."""

ICONS_WAITING = 16
"""Icons of one daemon that wait for a place; further ones are dropped."""

ICONS_TOTAL = 16
"""Icons of all sandboxes: each is a connection to the session bus, and a place in the panel."""

ICON_CHANGES_PER_SECOND = 4.0
"""Changes by one record's daemons in the long run; beyond, they alone wait."""

ICON_CHANGES_BURST = 16

ICON_CLICKS_PER_SECOND = 4.0
"""Clicks passed on to one daemon.  Further ones are dropped, because other programs of
the user can send clicks, too."""

ICON_CLICKS_BURST = 4
"""Fewer than the orders that wait for a worker's stream."""
