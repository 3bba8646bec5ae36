"""The jail of a worker, as the jailed fork server and the worker itself make it."""
