"""The GPU as sandboxes get it: render nodes, and the renderer process."""
