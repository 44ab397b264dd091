"""Evaluation of a run, and its model card."""
