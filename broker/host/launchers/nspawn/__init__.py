"""systemd-nspawn: a container of a directory tree, by an ordinary user."""
