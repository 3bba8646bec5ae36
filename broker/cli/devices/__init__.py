"""``brokerctl device``: USB devices by rule, and what reaches sandboxes as streams."""
