"""What is read and when: start offsets, backpressure, the circuit breaker."""
