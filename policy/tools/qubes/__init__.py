"""How Qubes' own tools read the same rules and worlds."""
