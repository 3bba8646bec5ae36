"""Guest images on this machine: their store, and the files that a start takes.

Processes: kernel unpacker (bzimage); launch tools (host_files, unpack); host, brokerctl
(initramfs, store); launch tools, brokerctl (packages).
"""
