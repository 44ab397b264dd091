"""From a file to tokenised frames; no torch."""
