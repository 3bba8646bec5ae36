"""What sandboxes call of the user's: programs, secrets, ssh agents, ports.

Processes: session children.
"""
