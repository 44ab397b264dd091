"""From published checkpoints to a model bundle. Reads what others wrote, and executes none of it."""
