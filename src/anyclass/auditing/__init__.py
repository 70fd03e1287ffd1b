"""Audit of images, labels and class names: what to look at before a fit."""
