"""Which code carries out which order of the viewer."""
