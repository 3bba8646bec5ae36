"""The link between host and viewer as both ends run it.

brokerctl also reads and writes its files (``config``, ``key_store``), and a session
child reports mistakes in ``link.toml``.
"""
