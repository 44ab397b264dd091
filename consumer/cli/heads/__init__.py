"""What `virnucpro train-head` reads, does and shows."""
