"""The schema registry: its client, the subjects of our topics, and the codecs that the settings ask for."""
