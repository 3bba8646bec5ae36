"""``brokerctl policy bundle``: signed rules and records, and how they reach machines."""
