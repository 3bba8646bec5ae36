"""Connections of programs in a sandbox to its worker, which every feature serves."""
