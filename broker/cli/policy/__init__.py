"""``brokerctl policy``, one module for each verb."""
