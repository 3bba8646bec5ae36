"""``brokerctl x11``, and X11 windows of Flatpak applications."""
