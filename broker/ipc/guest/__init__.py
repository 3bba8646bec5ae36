"""Messages of a guest's programs for files and the desktop, and the broker's to them."""
