"""Files on their way between sandboxes: entries, and whether their types are true."""
