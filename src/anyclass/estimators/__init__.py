"""Arrays in, arrays out: no CLIP model and no files."""
