"""``brokerctl doctor``: checks of host, viewer and shipping."""
