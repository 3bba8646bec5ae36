"""Guest images on this machine: their store, and the files that a start takes.

Processes: kernel unpacker (bzimage); launch tools in their jail (host_files); host,
brokerctl (initramfs, store); launch tools in their jail, brokerctl (packages); launch
tools (unpack).
"""
