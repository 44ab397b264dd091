"""What the commands for topics share."""
