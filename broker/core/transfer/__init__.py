"""Addresses, file names and files that cross between sandboxes: the rules, sans-IO."""
