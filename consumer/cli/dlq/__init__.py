"""Dead letters on the command line: read, filtered, shown, replayed."""
