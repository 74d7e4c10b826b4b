"""Scheduled work with deadlines, retries and dead letters; see README.md."""
