"""The cluster as the clients see it, librdkafka's options, and the broker in memory."""
