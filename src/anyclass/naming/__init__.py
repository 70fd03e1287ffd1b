"""Names for discovered classes."""
