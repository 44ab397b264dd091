"""From frames to the result of a record; no torch."""
