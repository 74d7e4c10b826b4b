"""`python -m zmqrel`, the same as `zmqrel`."""

import sys

from zmqrel.cli import main

if __name__ == "__main__":
    sys.exit(main(prog_name="zmqrel"))
