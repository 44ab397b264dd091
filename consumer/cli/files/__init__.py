"""What the commands for sequence files share."""
