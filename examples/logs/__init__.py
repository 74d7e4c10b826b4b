"""A log that is rotated, followed, parsed and written into a table; see README.md."""
