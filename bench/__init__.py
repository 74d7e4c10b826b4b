"""Measurements beside public peers: `python -m bench --help`; see docs/performance.md."""
