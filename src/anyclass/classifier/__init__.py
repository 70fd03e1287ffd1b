"""Classifiers: a representation of images followed by a head."""
