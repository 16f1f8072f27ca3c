"""Pictures of minute files as PNG. Needs matplotlib, which is an extra; nothing else in the program does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import PipelineError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PlotError(PipelineError):
    """A picture that cannot be made."""


def load(path: Path) -> dict[str, Any]:
    """The values of a minute file that can be drawn. Raises PipelineError (`npz`, `inspection`) for any other."""
    from pipeline import inspection, npz

    values = npz.read_partly(path).values
    try:
        inspection.check(values)
    except inspection.NotAMinute as error:
        raise inspection.NotAMinute(f"{path}: {error}") from None
    if not len(values["iq"]):
        raise inspection.NotAMinute(f"{path}: it has no samples")
    return values


def require_matplotlib() -> None:
    """Raise PlotError, with what to do, when matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise PlotError(
            f"plot needs matplotlib, which is not installed here; run\n  {sys.executable} -m pip install matplotlib"
        ) from None
    mpl.use("Agg")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG. Raises PlotError when the folder refuses."""
    import matplotlib.pyplot as plt

    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise PlotError(f"{path}: {error.strerror or error}") from None
    finally:
        plt.close(figure)
