"""A network of sandboxes: its frames, its process, and who is plugged in.

Processes: netguard (cable); switch (frames, process); host, switch, brokerctl
(switch_ports).
"""
