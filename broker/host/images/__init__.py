"""Guest images on this machine: their store, and the files that a start takes."""
