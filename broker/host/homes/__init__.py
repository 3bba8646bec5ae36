"""The state that a sandbox keeps between its runs, for every launcher.

Processes: host, brokerctl (disk, encrypted, keyring, renaming, sparse, store);
brokerctl (tree).
"""
