"""``brokerctl image``."""
