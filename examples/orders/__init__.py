"""A web shop, its warehouse, its payments and its ledger; see README.md."""
