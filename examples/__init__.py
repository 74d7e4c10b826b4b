"""Topologies to launch, each with its data and a README of its own."""
