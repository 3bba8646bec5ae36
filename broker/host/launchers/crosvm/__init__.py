"""crosvm as a machine's VMM."""
