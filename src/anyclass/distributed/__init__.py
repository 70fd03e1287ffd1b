"""Training by several processes, which torchrun starts."""
