"""``brokerctl run`` and the verbs around running sandboxes."""
