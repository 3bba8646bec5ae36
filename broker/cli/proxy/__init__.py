"""``brokerctl proxy``: one filter without a broker."""
