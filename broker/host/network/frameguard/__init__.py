"""The frameguard and the netguard: processes that judge each frame of a sandbox."""
