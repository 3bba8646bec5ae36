"""``brokerctl tray``: what runs, in the desktop's panel (StatusNotifierItem)."""
