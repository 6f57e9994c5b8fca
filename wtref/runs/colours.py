"""The colours and labels of curves: one of each rule everywhere."""

from wtref.text import printable

COLOURS = {  # bp to dfa are the palette of Okabe and Ito, which colour-blind readers can distinguish; one colour per rule everywhere
    "bp": "#000000", "fa": "#D55E00", "ss": "#E69F00", "wm": "#0072B2", "kp": "#009E73", "frsf": "#56B4E9", "dfa": "#CC79A7",
    "usf": "#6E3B30", "brsf": "#8C6D31", "om": "#2B00FF", "dkp": "#660066", "pfa": "#99DD55", "aa": "#B00020", "ia": "#9C8CFF",
    "sa": "#1F3D00", "frozen": "#808080",
}  # fmt: skip
PLUGINS = ("#FF2FD0", "#00C8B4", "#C8C800")  # rules of the user's own, in order
OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # runs by name, in order
LONGEST = 20  # characters of a name
LABELS = {"usf": "uSF", "frsf": "frSF", "brsf": "brSF", "frozen": "frozen"}


def label(curve):
    """The label of a curve: a rule's name as the literature writes it, or the name of a run.

    Long names of runs are shortened in the middle; "$", with which Matplotlib begins a formula, is escaped.
    """
    if curve in COLOURS:
        return LABELS.get(curve, curve.upper())
    name = printable(curve)
    name = f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 :]}" if len(name) > LONGEST else name
    return name.replace("$", r"\$")


def palette(curves):
    """{curve: colour} of {curve: its rule}; a rule of the user's own, as a curve, has the colour of none in COLOURS."""
    own = [curve for curve, rule in curves.items() if curve == rule and curve not in COLOURS]
    colours = {curve: COLOURS.get(curve, OTHERS[i % len(OTHERS)]) for i, curve in enumerate(curves)}
    return colours | {curve: PLUGINS[i % len(PLUGINS)] for i, curve in enumerate(own)}
