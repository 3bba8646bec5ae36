"""The Wayland protocol: wire format, objects, tables, dispatch."""
