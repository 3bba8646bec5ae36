"""How fast the manager's window comes, and what it takes while nothing happens."""
