"""`python -m pipeline.simulator`: the child process of `running_simulator`; not for typing in."""

import sys

from pipeline.simulator.station import child_main

if __name__ == "__main__":
    sys.exit(child_main())
