"""``brokerctl guest`` and ``restart``: our agent in foreign machines, another broker."""
