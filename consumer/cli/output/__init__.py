"""Tables and JSON lines on standard output."""
