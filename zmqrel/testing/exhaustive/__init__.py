"""Every interleaving of a small case over the production core, each distinct state once; see docs/exhaustive.md."""
