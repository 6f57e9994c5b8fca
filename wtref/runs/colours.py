"""How curves are drawn and labelled: a colour, a marker and a line of each rule's own, the same everywhere."""

from typing import NamedTuple

from wtref.text import printable, shortened

COLOURS = {  # bp to dfa are the palette of Okabe and Ito, which colour-blind readers can distinguish; one colour per rule everywhere
    "bp": "#000000", "fa": "#D55E00", "ss": "#E69F00", "wm": "#0072B2", "kp": "#009E73", "frsf": "#56B4E9", "dfa": "#CC79A7",
    "usf": "#6E3B30", "brsf": "#8C6D31", "om": "#2B00FF", "dkp": "#660066", "pfa": "#99DD55", "aa": "#B00020", "ia": "#9C8CFF",
    "sa": "#1F3D00", "frozen": "#808080",
}  # fmt: skip
MARKERS = {
    "bp": "o", "fa": "s", "ss": "^", "wm": "D", "kp": "v", "frozen": "X", "dfa": "P", "usf": "<", "frsf": ">", "brsf": "*",
    "om": "h", "dkp": "p", "pfa": "d", "aa": "P", "ia": "X", "sa": "*",
}  # fmt: skip
HOLLOW = ("aa", "ia", "sa")  # rules whose markers, those of other rules, are hollow
PLUGINS = ("#FF2FD0", "#00C8B4", "#C8C800", "#007800", "#F00078", "#3C2DC3", "#FFA587")  # rules of the user's own, in order
OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # runs by name, in order
CYCLE = ("o", "s", "^", "D", "v")  # markers of both; with 7 colours, the first 35 curves differ
LONGEST = 20  # characters of a name
LABELS = {"usf": "uSF", "frsf": "frSF", "brsf": "brSF", "frozen": "frozen"}


def label(curve):
    """The label of a curve: a rule's name as the literature writes it, or the name of a run.

    Long names are shortened in the middle.
    """
    if curve in COLOURS:
        return LABELS.get(curve, curve.upper())
    return shortened(printable(curve), LONGEST)


class Style(NamedTuple):
    """How a curve is drawn: Matplotlib's color, marker, linestyle and fillstyle of markers."""

    color: str
    marker: str
    linestyle: str = "-"
    fillstyle: str = "full"


def palette(curves):
    """{curve: its Style} of {curve: its rule}.

    The control is dashed.  Rules of the user's own are dash-dotted, with hollow markers, in colours that no rule in COLOURS has.
    """
    own = [curve for curve, rule in curves.items() if curve == rule and curve not in COLOURS]
    styles = {curve: Style(OTHERS[i % len(OTHERS)], CYCLE[i % len(CYCLE)]) for i, curve in enumerate(curves)}
    styles |= {curve: Style(PLUGINS[i % len(PLUGINS)], CYCLE[i % len(CYCLE)], "-.", "none") for i, curve in enumerate(own)}
    return styles | {curve: _style(curve) for curve in curves if curve in COLOURS}


def _style(rule):
    return Style(COLOURS[rule], MARKERS[rule], "--" if rule == "frozen" else "-", "none" if rule in HOLLOW else "full")
