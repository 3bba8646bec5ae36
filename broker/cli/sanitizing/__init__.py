"""``brokerctl sanitize``: documents made harmless, as pixels from a sandbox."""
