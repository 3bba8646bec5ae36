"""Icons in the user's panel: those of sandboxes, and the bus that all of them share."""
