"""``brokerctl policy``: a module for each verb."""
