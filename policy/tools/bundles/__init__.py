"""Signed bundles of rules, and the index that names them: formats, without files."""
