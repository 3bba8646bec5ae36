"""Flatpak: an installed application with its sockets replaced by those of a lease."""
