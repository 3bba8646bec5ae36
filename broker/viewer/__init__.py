"""The viewer part: sandboxes on the person's screen, and the link to the host."""
