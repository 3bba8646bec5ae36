"""The network of a box or container: the frame filter of micro VMs before passt."""
