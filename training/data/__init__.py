"""From genomes to the tables that training reads."""
