"""Charts as Vega-Lite documents, written directly: data, no code, the same for the same board.

Field names are ours and fixed; text from plugins occurs as data values only, never in an
expression, a link or a format. Widths are "container" for the page and a number for a still
picture.
"""

from reports.html.charts.budget import CurvePoint, TracePoint, curves, trace
from reports.html.charts.fronts import FrontPoint, front, front_lines, undominated
from reports.html.charts.images import distribution, finished, opening_rates
from reports.html.charts.style import Document, still

__all__ = [
    "CurvePoint",
    "Document",
    "FrontPoint",
    "TracePoint",
    "curves",
    "distribution",
    "finished",
    "front",
    "front_lines",
    "opening_rates",
    "still",
    "trace",
    "undominated",
]
