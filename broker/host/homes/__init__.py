"""The state that a sandbox keeps between its runs, for every launcher.

The host has homes of micro VMs; brokerctl those of boxes, containers and machines that
it starts by a script, and all of them for its verbs about state.
"""
