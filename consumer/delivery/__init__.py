"""From an outcome to Kafka: answers, and the two delivery guarantees."""
