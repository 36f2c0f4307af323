"""Retrieval examples as one HTML page: no script, nothing loaded, images inside."""

from __future__ import annotations

import base64
import io
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path

from xmbench import __version__
from xmbench._io import atomic_write
from xmbench.errors import CorruptData, MissingDependency, UsageError
from xmbench.examples import LEGEND, Example, Item, Report, Result, heading, precision_words, snippet
from xmbench.leaderboard import clean

SIDE = 280
"""Longest side of a thumbnail, in pixels; twice what the page shows, for fine screens."""

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1f2328; --faint: #59636e; --card: #f6f8fa;
  --line: #d1d9e0; --right: #1a7f37; --wrong: #cf222e; --warn: #fff8c5; --warn-line: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #0d1117; --ink: #f0f6fc; --faint: #9198a1; --card: #151b23; --line: #3d444d;
    --right: #3fb950; --wrong: #f85149; --warn: #2b2205; --warn-line: #d29922; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 96rem; padding: 1.5rem; background: var(--ground); color: var(--ink);
  font: 0.9rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 0.75rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 0; }
h3 { font-size: 0.8rem; margin: 0 0 0.4rem; color: var(--faint); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1rem; margin: 0 0 1rem; }
dt { color: var(--faint); }
dd { margin: 0; }
.warning, .note { border-left: 0.3rem solid var(--line); padding: 0.5rem 0.8rem; margin: 0.5rem 0;
  background: var(--card); }
.warning { border-color: var(--warn-line); background: var(--warn); font-weight: 600; }
.example { display: grid; grid-template-columns: 10.5rem 1fr; gap: 1.25rem; padding: 1.25rem 0;
  border-bottom: 1px solid var(--line); }
.results { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.25rem, 1fr)); gap: 0.7rem; margin: 0;
  padding: 0; list-style: none; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 0.4rem; padding: 0.5rem; }
.results .card { border: 0.2rem solid var(--right); }
.results .wrong { border: 0.2rem dashed var(--wrong); }
.place { display: flex; align-items: baseline; gap: 0.4rem; margin: 0 0 0.35rem; font-weight: 600; }
.mark { color: var(--right); font-size: 1.1rem; line-height: 1; }
.wrong .mark { color: var(--wrong); }
.score { margin-left: auto; font-weight: 400; font-size: 0.75rem; color: var(--faint); }
.card img { display: block; width: 100%; height: 8rem; object-fit: contain; border-radius: 0.2rem; }
.absent { display: grid; place-items: center; height: 4rem; margin: 0; border: 1px dotted var(--line);
  text-align: center; color: var(--faint); font-size: 0.75rem; }
.words { margin: 0; font-size: 0.82rem; }
.names { margin: 0.35rem 0 0; font-size: 0.75rem; color: var(--faint); }
.names b { color: var(--ink); }
footer { margin-top: 1.5rem; color: var(--faint); font-size: 0.8rem; }
@media (max-width: 40rem) { .example { grid-template-columns: 1fr; } .query { max-width: 14rem; } }
@media print { .example { break-inside: avoid; } }
"""


def write_page(path: Path, report: Report) -> None:
    """Write :func:`page` to a file; raises UsageError if that cannot be."""
    content = page(report)
    try:
        atomic_write(path, content.encode())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}; name another file with --html"
        ) from error


def page(report: Report) -> str:
    """A report as HTML5, for light and dark screens; whatever comes from records and datasets is escaped.

    Raises:
        MissingDependency: there are images to show, and Pillow is not installed.
        CorruptData: a file is no readable image.
    """
    thumbnail = cache(_thumbnail)

    def picture(item: Item, length: int = 140) -> str:
        if item.modality == "text":
            words = "(no text to show)" if item.text is None else snippet(item.text, length)
            return f'<p class="words">{_safe(words)}</p>'
        if item.image is None:
            return '<p class="absent">no image to show</p>'
        about = f"image {item.id}, {', '.join(item.classes)}"
        alt = about if item.text is None else f"{about}: {snippet(item.text, 120)}"
        return f'<img src="{thumbnail(item.image)}" alt="{_safe(alt)}">'

    def names(item: Item) -> str:
        return f'<p class="names"><b>{_safe(", ".join(item.classes))}</b><br>{item.modality} {_safe(item.id)}</p>'

    def result(found: Result) -> str:
        kind, mark, says = ("right", "✓", "relevant") if found.relevant else ("wrong", "✗", "not relevant")
        return (
            f'<li class="card {kind}"><p class="place"><span>{found.rank}</span>'
            f'<span class="mark" role="img" aria-label="{says}">{mark}</span>'
            f'<span class="score">{found.score:.3f}</span></p>{picture(found.item)}{names(found.item)}</li>'
        )

    def example(shown: Example) -> str:
        return (
            f'<article class="example"><div class="query"><h3>query, {precision_words(shown)}</h3>'
            f'<div class="card">{picture(shown.query, 400)}{names(shown.query)}</div></div>\n<ol class="results">\n'
            + "\n".join(map(result, shown.results))
            + "\n</ol></article>"
        )

    title = _safe(report.title)
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<title>{title}: retrieval examples</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        f"<header>\n<h1>{title}: retrieval examples</h1>\n<dl>",
        *(f"<dt>{name}</dt><dd>{_safe(value)}</dd>" for name, value in report.facts),
        "</dl>",
        *(f'<p class="warning">{_safe(text)}.</p>' for text in report.warnings),
        *(f'<p class="note">{_safe(text)}.</p>' for text in report.notes),
        f"<p>✓ and a solid frame: {LEGEND[0]}; ✗ and a dashed frame: {LEGEND[1]}. Results stand in rank order; "
        f"{LEGEND[2]}. The number on the right of each is its similarity to the query.</p>\n</header>",
    ]
    for task, examples in report.tasks.items():
        lines += [f"<section>\n<h2>{heading(task, report)}</h2>", *map(example, examples), "</section>"]
    lines.append(f"</main>\n<footer>Made with xmbench {__version__}.</footer>\n</body>\n</html>\n")
    return "\n".join(lines)


def _safe(text: str) -> str:
    """One line without control characters or markup, for content and quoted attributes."""
    return escape(clean(text))


def _thumbnail(path: Path) -> str:
    """A small JPEG of an image file as a data address; what is transparent becomes white."""
    if find_spec("PIL") is None:
        raise MissingDependency("images need Pillow; install it with: pip install 'xmbench[features]'")
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (2 * SIDE, 2 * SIDE))  # a JPEG is decoded at about the size that is needed
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise CorruptData(f"{path.parent.name}/{path.name} is not a readable image: {error}") from error
    image.thumbnail((SIDE, SIDE))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
