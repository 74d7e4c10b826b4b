"""Programs that embed a peer, one flat file each: to run as they are, and to copy from."""
