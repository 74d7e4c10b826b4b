"""Peers that bind nothing, connect out to a hub, go away and come back; see README.md."""
