"""How good a model is, and how far two ways to compute differ."""
