"""Features of images and of class names, cached on disk."""
