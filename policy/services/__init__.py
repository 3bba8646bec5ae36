"""Services that sandboxes call: in records, and at the user's own desktop."""
