"""Starting processes: spawn, jail, seccomp, identity."""
