"""Names of metrics that other modules read; apart from `record.py`, which needs PyTorch."""

STEPS = "steps"
"""Number of training steps."""
