"""The training loop, its batches, optimisers and losses."""
