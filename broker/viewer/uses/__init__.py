"""What sandboxes use now, and the signs of it: list, frames, banner, notification."""
