"""A quick look at the speed of this machine, for `zmqrel bench`. Uses public names of zmqrel alone."""
