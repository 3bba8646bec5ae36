"""The network of a box or container: the frame filter of micro VMs before passt.

Processes: host, frameguard, netguard, switch, flowguard, brokerctl (addresses); host,
brokerctl (passt).
"""
