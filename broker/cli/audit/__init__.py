"""``brokerctl audit``: a module for each verb."""
