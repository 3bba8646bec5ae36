"""The worker's side of copy, paste and drags."""
