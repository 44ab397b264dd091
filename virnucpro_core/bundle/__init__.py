"""A model bundle on disk."""
