"""Measurements of zmqrel beside what a user would write without it."""
