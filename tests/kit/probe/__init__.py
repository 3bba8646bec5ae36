"""One program that asks the kernel what a sandbox may do, and how it is run in each kind."""
