"""The network of a box or container: the frame filter of micro VMs before passt.

Network of machines: the host starts the packet guard, passt and switches, which run the
modules of frames.  Of boxes and containers: the host adds it to a namespace.
"""
