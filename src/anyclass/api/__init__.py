"""The Python interface: fit, load, and what they return."""
