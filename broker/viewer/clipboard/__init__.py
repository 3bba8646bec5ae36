"""The clipboard between the viewer's sandboxes."""
