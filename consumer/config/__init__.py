"""Settings, environment variables, and the options of each Kafka client."""
