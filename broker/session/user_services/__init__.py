"""The user's services that sandboxes call: programs, secrets, ssh agents, ports."""
