"""``brokerctl share`` and ``unshare``: directories of the user's in sandboxes."""
