"""An ECG drawn as on paper: 25 mm/s, 10 mm/mV, three rows of four leads above a rhythm strip."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from enecg.printable import printable
from enecg.signals import DURATION_S, LEADS, N_SAMPLES, SAMPLING_RATE_HZ, lead_position

MM_PER_S, MM_PER_MV = 25.0, 10.0
ROWS = (
    ("I", "aVR", "V1", "V4"),
    ("II", "aVL", "V2", "V5"),
    ("III", "aVF", "V3", "V6"),
    ("II",),
)
_ROW_MM, _MARGIN_MM = 30.0, 10.0
_WIDTH_MM = DURATION_S * MM_PER_S + 2 * _MARGIN_MM
_HEIGHT_MM = len(ROWS) * _ROW_MM + _MARGIN_MM
_CUT_MM = 50.0
_FINE, _COARSE, _INK, _PALE = "#f7d4d0", "#eda9a1", "#1a1a1a", "#888888"


def draw_ecg(
    x_LT: npt.NDArray[np.floating],
    target: Path | Axes,
    title: str = "",
    derived: Collection[str] = (),
    file_format: str | None = None,
) -> None:
    """Draw a 12-lead ECG on millimetre paper.

    Parameters
    ----------
    x_LT : float array, shape (12, 5000)
        Millivolts at 500 Hz, leads in the order of `enecg.signals.LEADS`, NaN where missing.
    target : Path or matplotlib Axes
        A file to write (true to scale when printed), or axes to
        draw into (2.7 : 1.3 suits them).
    title : str
        Written above the strips.
    derived : collection of str
        Leads that were not recorded but computed from others; they are marked so.
    file_format : str, optional
        Of the file, such as ``png``; by default its ending.

    Notes
    -----
    Each of the first three rows shows four leads for 2.5 s each, one after the other in time;
    below, lead II runs for 10 s. A strip is centred on its median, as a recorder does. Strips may
    cross, as on paper; what is further than 5 mV from the median is cut, and that is said. A lead
    without any sample is named and left empty.
    """
    x_LT = np.asarray(x_LT)
    if x_LT.shape != (len(LEADS), N_SAMPLES):
        raise ValueError(f"an ECG to draw is of shape (12, {N_SAMPLES}), not {x_LT.shape}")
    if isinstance(target, Axes):
        _draw(x_LT, target, title, derived)
        return
    figure = Figure(figsize=(_WIDTH_MM / 25.4, _HEIGHT_MM / 25.4))
    _draw(x_LT, figure.add_axes((0, 0, 1, 1)), title, derived)
    figure.savefig(target, dpi=150, format=file_format)


def _draw(x_LT: npt.NDArray[np.floating], axes: Axes, title: str, derived: Collection[str]) -> None:
    axes.set(xlim=(0, _WIDTH_MM), ylim=(0, _HEIGHT_MM), aspect="equal", xticks=[], yticks=[])
    for step, color in ((1.0, _FINE), (5.0, _COARSE)):
        x, y = np.arange(0, _WIDTH_MM + 1, step), np.arange(0, _HEIGHT_MM + 1, step)
        lines = [((v, 0), (v, _HEIGHT_MM)) for v in x] + [((0, v), (_WIDTH_MM, v)) for v in y]
        axes.add_collection(LineCollection(lines, colors=color, linewidths=0.4, zorder=0))
    for row, leads in enumerate(ROWS):
        middle = _HEIGHT_MM - _MARGIN_MM - (row + 0.5) * _ROW_MM
        # The calibration mark: 1 mV, 0.2 s.
        mark_x = np.array([2, 2, 7, 7]) + (_MARGIN_MM - 9)
        axes.plot(mark_x, middle + np.array([0, MM_PER_MV, MM_PER_MV, 0]), color=_INK, lw=0.8)
        samples = N_SAMPLES // len(leads)
        for column, lead in enumerate(leads):
            strip = x_LT[lead_position(lead), column * samples : (column + 1) * samples]
            note = "derived" if lead in derived else ""
            _draw_strip(strip, axes, lead, note, column * samples, middle)
    axes.text(
        _MARGIN_MM, _HEIGHT_MM - 6, printable(title), fontsize=9, color=_INK, parse_math=False
    )
    axes.text(
        _WIDTH_MM - 3, 2, "25 mm/s   10 mm/mV", fontsize=7, color=_INK, horizontalalignment="right"
    )


def _draw_strip(
    strip: npt.NDArray[np.floating], axes: Axes, lead: str, note: str, start: int, middle: float
) -> None:
    time_mm = (start + np.arange(len(strip))) / SAMPLING_RATE_HZ * MM_PER_S + _MARGIN_MM
    absent = bool(np.isnan(strip).all())
    if absent:
        note = "missing"
    else:
        height_mm = (strip - np.nanmedian(strip)) * MM_PER_MV
        if np.nanmax(np.abs(height_mm)) > _CUT_MM:
            note = f"{note}, cut".removeprefix(", ")
        height_mm = np.clip(height_mm, -_CUT_MM, _CUT_MM)
        axes.plot(time_mm, middle + height_mm, color=_INK, lw=0.6)
    axes.text(
        time_mm[0] + 1.5,
        middle + 10.5,
        f"{lead} ({note})" if note else lead,
        fontsize=8,
        color=_PALE if absent else _INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
    )
