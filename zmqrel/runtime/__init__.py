"""Where the core meets the world: sockets, clocks, the I/O thread, handler threads and keys."""
