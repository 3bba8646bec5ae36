"""The host part: machines, leases, admission, and the link to the viewer."""
