"""The way to what needs the user's rights: orders to children of the starter."""
