"""Files and links that a sandbox or the person wants opened or copied elsewhere."""
