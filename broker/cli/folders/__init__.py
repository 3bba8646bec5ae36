"""``brokerctl share`` and ``unshare``: directories of the person's in sandboxes."""
