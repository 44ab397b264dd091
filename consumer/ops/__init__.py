"""What operators use: metrics, health, HTTP, logs, signals, the watchdog."""
