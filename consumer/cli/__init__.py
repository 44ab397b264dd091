"""The command line `virnucpro`, one module for each command."""
