"""How long a machine takes to start."""
