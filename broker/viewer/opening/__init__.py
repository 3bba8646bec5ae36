"""Files and links: what a sandbox or the person wants opened or copied elsewhere."""
