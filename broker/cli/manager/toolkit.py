"""GTK 4 and libadwaita by PyGObject, which are the system's: no wheel has them.

All modules with widgets import them from here.  Raises ImportError if they are absent.
"""

from __future__ import annotations

import sys
from typing import Final

_SYSTEM: Final = "/usr/lib/python3/dist-packages"

try:
    import gi
except ImportError:
    # A virtual environment of the system's own Python, without the system's modules.
    # Last in the path, so that it replaces no module of the environment.
    sys.path.append(_SYSTEM)
    import gi

try:
    gi.require_version("Gtk", "4.0")
    gi.require_version("Adw", "1")
except ValueError as error:
    raise ImportError(str(error)) from error

from gi.repository import Adw, Gdk, Gio, GLib, Gtk  # noqa: E402 -- after the versions

__all__ = ["Adw", "GLib", "Gdk", "Gio", "Gtk"]
