"""Run folders: the folder itself, its tables, scores and progress."""
