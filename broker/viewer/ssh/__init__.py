"""Keys of ssh that stay where they are, and are used by rule."""
