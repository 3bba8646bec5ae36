"""Files and links that a sandbox or the user wants opened or copied elsewhere."""
