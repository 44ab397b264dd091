"""The neural networks and what runs them. The only part of the core that needs torch; import its modules."""
