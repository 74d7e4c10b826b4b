"""The protocol as a value machine: no sockets, clocks, randomness, threads or files. engine.py is its only door."""
