"""grape-pipeline: radiod's IQ streams become one NPZ file per channel and UTC minute.

What can be wrong about time or order is a pure function of its arguments
(`pipeline.stream`, `pipeline.ntp`, `pipeline.supervision.restarts`); what can hang or die is a
process of its own (`pipeline.supervision.supervisor`, `pipeline.worker`, `pipeline.ntp.monitor`).
"""

__version__ = "0.1.0"

DISTRIBUTION = "grape-pipeline"

# sysexits.h: the service manager must not restart what the operator has to mend first.
EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_SOFTWARE = 70
EXIT_CONFIG = 78


class PipelineError(Exception):
    """Something the operator can act on: the text says what, where and what to do."""

    exit_code = EXIT_FAILURE
