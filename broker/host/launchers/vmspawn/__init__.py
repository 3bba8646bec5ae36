"""systemd-vmspawn: a machine of an image for one run, by an ordinary user."""
