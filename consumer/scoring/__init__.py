"""From a message to its outcome: preparation, batches, inference, quarantine."""
