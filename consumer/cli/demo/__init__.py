"""The parts of `virnucpro demo`."""
