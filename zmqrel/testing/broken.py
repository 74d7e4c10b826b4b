"""What every checker raises."""


class PromiseBroken(AssertionError):
    """A peer did what no peer may do."""
