"""The user's directories for sandboxes, and settings and icons of the user's desktop."""
