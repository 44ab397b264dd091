"""The service: Kafka in, Kafka out, its settings, metrics, HTTP pages and command line."""
