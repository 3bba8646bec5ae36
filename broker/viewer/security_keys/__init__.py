"""Security keys for sandboxes, without handing the key over."""
