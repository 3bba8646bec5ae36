"""Guest images that are not made of Debian packages: from archives, and of this host."""
