"""What a run folder holds: the folder itself, its tables, its scores, its progress."""
