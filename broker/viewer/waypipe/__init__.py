"""Upstream's waypipe client, in a jail or in a container."""
