"""GTK 4 and libadwaita by PyGObject, which are the system's: no wheel has them.

All modules with widgets import them from here.  Raises SetupError if they are absent.
"""

from __future__ import annotations

import sys
import sysconfig
from typing import Final

from broker.core.distribution import install_command
from broker.core.errors import SetupError

_VERSION: Final = sysconfig.get_python_version()
_SYSTEM: Final = (
    "/usr/lib/python3/dist-packages",
    f"/usr/lib64/python{_VERSION}/site-packages",
    f"/usr/lib/python{_VERSION}/site-packages",
)

try:
    try:
        import gi
    except ImportError:
        # A virtual environment of the system's own Python, without the system's modules.
        # Last in the path, so that it replaces no module of the environment.
        sys.path += _SYSTEM
        import gi
    gi.require_version("Gtk", "4.0")
    gi.require_version("Adw", "1")
    from gi.repository import Adw, Gdk, Gio, GLib, Gtk, Pango
except (ImportError, ValueError) as error:
    raise SetupError(
        f"the manager needs GTK 4 and libadwaita: {error}",
        hint=install_command("python3-gi", "gir1.2-gtk-4.0", "gir1.2-adw-1"),
    ) from error

__all__ = ["Adw", "GLib", "Gdk", "Gio", "Gtk", "Pango"]
