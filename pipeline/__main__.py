"""Entry point of the command `grape-pipeline` and of `python -m pipeline`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Read when numpy is loaded: workers are many and small, and a library's own threads would
# not survive the fork. glibc reads MALLOC_ARENA_MAX when a program starts, so here it counts
# for the programs that this one starts; bin/grape-pipeline sets it for this one.
for _name, _value in (("OPENBLAS_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1"), ("MALLOC_ARENA_MAX", "2")):
    os.environ.setdefault(_name, _value)

import click  # noqa: E402

from pipeline import DISTRIBUTION, EXIT_FAILURE, PipelineError  # noqa: E402
from pipeline.cli import cli  # noqa: E402
from pipeline.logs import setup_logging  # noqa: E402

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count it


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Errors the operator can act on become lines on stderr."""
    # Before the arguments are parsed, so that no library's message reaches stdout.
    setup_logging()
    try:
        status = cli.main(arguments, prog_name=DISTRIBUTION, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except PipelineError as error:
        for line in str(error).splitlines():
            print(f"{DISTRIBUTION}: {line}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    return status if isinstance(status, int) else 0


def main() -> None:
    """Run the command that the process was started with, and exit with its status."""
    sys.exit(run())


if __name__ == "__main__":
    main()
