"""Flatpak: an installed application with its sockets replaced by those of a lease.

brokerctl edits the override and starts the application (``broker/cli/launchers/flatpak.py``,
``broker/cli/launchers/flatpak_setup.py``); the host's process only recognises its connections
(``claim.py``).
"""
