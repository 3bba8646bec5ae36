"""``brokerctl audit``, one module for each verb."""
