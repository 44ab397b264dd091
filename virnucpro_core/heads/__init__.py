"""Feature files, and the training of a classifier on them."""
