"""Proof that the log is unchanged: tree, signatures, verification."""
