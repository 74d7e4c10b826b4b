"""Short-lived messages to a receiver that is too slow for them; see README.md."""
