"""What `fit` returns: image features, then a head; saved, loaded, and what heads there are."""
