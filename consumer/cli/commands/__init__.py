"""One module for each command of `virnucpro`."""
