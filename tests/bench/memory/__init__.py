"""What machines cost while they are idle: memory, processor time."""
