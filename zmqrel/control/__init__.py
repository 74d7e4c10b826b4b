"""What a person asks of a store, of a running peer through its control socket or of a stopped one directly."""
