"""Features of images and of class names, embedded once and kept on disk."""
