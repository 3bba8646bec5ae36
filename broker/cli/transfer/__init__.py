"""Files and addresses that cross: ``brokerctl open`` and ``brokerctl cp``."""
