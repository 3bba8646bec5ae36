"""The frameguard and the netguard: processes that judge each frame of a sandbox.

Processes: frameguard, netguard, switch, flowguard (ethernet_frames, frameguard,
neighbours, packets); netguard, flowguard (tap); netguard, switch, flowguard (veth).
"""
