"""What is measured, against whom; each benchmark prints ratios from one run, docs/numerics.md keeps some."""
