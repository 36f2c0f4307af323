"""How figures look: style, colours, panels, legend, title and notes, and the files that they are written to.

Text is shown as it is, whatever a record says; equal figures are equal bytes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmbench._io import atomic_write, clean
from xmbench.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
SMALL, NORMAL = 8.0, 10.0  # points
_WIDE, _NARROW = 7.0, 4.2  # inches: two panels side by side, or one
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
_MARKERS = "osD^vPX*"
MOST_LOOKS = len(COLOURS) * len(_LINES)  # of different looks


def check_matplotlib() -> None:
    """Raise MissingDependency unless the extra ``plots`` is installed."""
    if find_spec("matplotlib") is None:
        raise MissingDependency("figures need matplotlib; pip install 'xmbench[plots]'")


def check_output(path: Path) -> None:
    """Raise UsageError unless the name of a file tells a format that can be written, in a folder that exists."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--output {path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {path.parent}; make it, or choose another")


def write(drawn: Figure, path: Path) -> None:
    """Write a figure in the format that ``path`` ends in; equal figures give equal bytes."""
    check_output(path)
    undated: dict[str, dict[str, None]] = {
        ".png": {"Software": None},
        ".svg": {"Date": None},
        ".pdf": {"CreationDate": None},
    }
    buffer = io.BytesIO()
    with own_style():
        drawn.savefig(buffer, format=path.suffix[1:], metadata=undated[path.suffix])
    try:
        atomic_write(path, buffer.getvalue())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}; name another file with --output"
        ) from error


def own_style() -> AbstractContextManager[Any]:
    """matplotlib's defaults and ours, whatever a matplotlibrc of the user's says."""
    from matplotlib import style

    ours = {
        "font.size": NORMAL,
        "axes.titlesize": NORMAL,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "legend.fontsize": NORMAL - 1,
        "legend.frameon": False,
        "savefig.dpi": 200,
        "svg.hashsalt": "xmbench",
    }
    context: AbstractContextManager[Any] = style.context(["default", ours])
    return context


def looks_of(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Label -> looks, by alphabet and not by rank: the same methods look alike in all figures."""
    return {label: nth_looks(i) for i, label in enumerate(sorted(labels))}


def nth_looks(i: int) -> dict[str, Any]:
    """Colour, dash and marker of the i-th method: any one of them tells the first few apart."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": _LINES[i % len(_LINES)],
        "marker": _MARKERS[i % len(_MARKERS)],
    }


def empty_panels(n: int, height: float, *, wide: bool = False, **options: Any) -> tuple[Figure, list[Axes]]:
    """``n`` panels of ``height`` inches each, two in a row, or one where they are ``wide``."""
    from matplotlib.figure import Figure

    columns = 1 if wide else min(n, 2)
    rows = -(-n // columns)
    size = (_WIDE if wide or n > 1 else _NARROW, rows * height)
    drawn = Figure(figsize=size, layout="constrained")
    panels = list(drawn.subplots(rows, columns, squeeze=False, **options).flat)
    for panel in panels[n:]:
        panel.remove()
    return drawn, panels[:n]


def dress(
    drawn: Figure,
    title: str,
    handles: Sequence[Any],
    labels: Sequence[str],
    notes: Sequence[str],
    warning: str = "",
) -> Figure:
    """Title and warning above the panels, legend and notes below; the figure grows by what they take.

    Args:
        drawn: a figure of panels.
        title: what data is shown.
        handles: what stands in the legend, one or more.
        labels: of the handles.
        notes: what a reader must know, a paragraph each.
        warning: shown in red under the title, if there is one.
    """
    width, height = drawn.get_size_inches()
    above = [(text, size, colour) for text, size, colour in (
        (_wrap(title, width, NORMAL), NORMAL, "black"), (_wrap(warning, width, SMALL), SMALL, "#B00000"),
    ) if text]  # fmt: skip
    below = "\n".join(_wrap(note, width, SMALL) for note in notes)
    legend = _legend(drawn, handles, [_wrap(label, width - 0.8, NORMAL - 1) for label in labels], width)
    pad = 0.06
    heads = [_lines(text) * size * 1.25 / 72 + pad for text, size, _ in above]
    foot = _lines(below) * SMALL * 1.3 / 72 + 2 * pad
    keys = legend.get_window_extent(_renderer(drawn)).height / drawn.dpi
    total = height + sum(heads) + keys + foot + pad
    drawn.set_size_inches(width, total)
    drawn.get_layout_engine().set(
        rect=(0, (foot + keys) / total, 1, height / total), w_pad=0.06, h_pad=0.05, wspace=0.03, hspace=0.04
    )
    legend.set_bbox_to_anchor((0.5, foot / total))
    top = total - pad
    for (text, size, colour), taken in zip(above, heads, strict=True):
        drawn.text(
            0.5, top / total, text, fontsize=size, color=colour, ha="center", va="top", parse_math=False,
            linespacing=1.15,
        )  # fmt: skip
        top -= taken
    drawn.text(
        0.02, foot / total - pad / total, below, fontsize=SMALL, va="top", color="#333333", parse_math=False
    )
    return drawn


def _legend(drawn: Figure, handles: Sequence[Any], labels: Sequence[str], width: float) -> Any:
    """A legend of as many columns as fit the width, up to six."""
    for columns in range(min(6, len(labels)), 0, -1):
        names = [f"{i}" for i in range(len(labels))]  # a label that begins with _ would be left out
        legend = drawn.legend(
            handles, names, ncols=columns, loc="lower center", borderaxespad=0, handlelength=3
        )
        legend.set_in_layout(False)
        for text, label in zip(legend.get_texts(), labels, strict=True):
            text.set_parse_math(False)
            text.set_text(label)
        if columns == 1 or legend.get_window_extent(_renderer(drawn)).width / drawn.dpi <= width:
            break
        legend.remove()
    return legend


def _renderer(drawn: Figure) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return FigureCanvasAgg(drawn).get_renderer()


def cut(text: str, most: int) -> str:
    """One line of at most so many characters that cannot steer anything."""
    text = clean(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _wrap(text: str, width: float, size: float) -> str:
    """Lines that fit ``width`` inches in letters of ``size`` points."""
    return "\n".join(textwrap.wrap(cut(text, 600), int(width * 72 / (0.58 * size))))


def _lines(text: str) -> int:
    return text.count("\n") + 1
