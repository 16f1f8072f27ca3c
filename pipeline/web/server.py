"""Runs the page under waitress until the process is told to end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

from pipeline import PipelineError
from pipeline.config import Config
from pipeline.process import set_name

log = logging.getLogger(__name__)

THREADS = 4
CONNECTIONS = 64
MAX_REQUEST = 16 * 1024
NICE = 10


class WebError(PipelineError):
    """The page cannot be served."""


def serve(config: Config, instance: str, listen: str, hosts: tuple[str, ...]) -> int:
    """Serve the page of `instance` on `listen`, host:port. Raises WebError when it cannot be."""
    _require()
    from waitress.server import create_server

    from pipeline.web.app import Site
    from pipeline.web.gallery import Gallery
    from pipeline.web.shelf import cache_folder

    set_name("gp-web", f"web {instance} {listen}")
    # Pictures can wait; the recorder cannot.
    os.nice(NICE)
    gallery = Gallery(config, cache=cache_folder())
    site = Site(config, instance, gallery, (host.lower() for host in hosts))
    try:
        server = create_server(
            site, listen=listen, threads=THREADS, connection_limit=CONNECTIONS, channel_timeout=30,
            max_request_header_size=MAX_REQUEST, max_request_body_size=MAX_REQUEST, ident=None,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise WebError(f"cannot listen on {listen}: {error}") from None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    gallery.start()
    # Requests that wait for a picture are no news.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    log.info("the page of instance %s is at http://%s/", instance, listen)
    try:
        server.run()  # also ends on SystemExit and KeyboardInterrupt
    finally:
        server.close()
        gallery.stop()
    return 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _require() -> None:
    try:
        import matplotlib as mpl
        import waitress as _  # noqa: F401
    except ImportError as error:
        raise WebError(
            f"web needs {error.name}, which is not installed here; run\n"
            f"  {sys.executable} -m pip install waitress matplotlib"
        ) from None
    mpl.use("Agg")
