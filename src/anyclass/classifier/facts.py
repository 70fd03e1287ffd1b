"""Keys of the figures of a fit that other modules read."""

STEPS = "steps"
"""Number of training steps."""
