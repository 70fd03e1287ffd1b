"""The review page: look at the labels of a run, correct them, train again."""
