"""The picture of `run.py mirror`: what was measured of B on its way to W^T, beside what theory says.  Needs matplotlib."""

from wtref.runs.colours import COLOURS, MARKERS, label
from wtref.runs.drawing import available, save, subplots


def draw(lessons, folder):
    """Draw mirror.png from mirror.Lessons; returns the paths, as draw_comparison does."""
    if not available():
        return []
    figure, ((still, moving, decays),) = subplots(1, 3, (13, 4), share=False)
    _draw_still(still, lessons.still)
    _draw_moving(moving, lessons)
    _draw_decays(decays, lessons.decays)
    return save({"mirror.png": figure}, folder)


def _draw_still(axes, lessons):
    for rule, points in lessons.items():
        _beside_theory(axes, points, rule)
        x, y, _ = points[-1]
        axes.annotate(label(rule), (x, y), xytext=(6, 4), textcoords="offset points", color=COLOURS[rule], annotation_clip=False)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="rows of noise", ylabel="matrix angle (degrees)", ylim=(-2, 90))
    axes.set_title("W at rest: points measured, lines by theory", fontsize=10, loc="left")


def _draw_moving(axes, lessons):
    windows, noise, lag = zip(*lessons.parts)
    for part, name, at, offset in ((noise, "noise", 20, (-6, -12)), (lag, "lag", 30, (-6, 6))):
        axes.plot(windows, part, color=COLOURS["wm"], linestyle=":", linewidth=1.2)
        axes.annotate(name, (windows[at], part[at]), xytext=offset, textcoords="offset points", color=COLOURS["wm"], ha="right")
    _beside_theory(axes, lessons.moving["wm"], "wm")
    ((_, measured, theory),) = lessons.moving["aa"]
    axes.axhline(theory, color=COLOURS["aa"], linewidth=1.4)
    axes.plot([windows[len(windows) // 2]], [measured], color=COLOURS["aa"], marker=MARKERS["aa"], markersize=5)
    for rule, height in (("wm", lessons.moving["wm"][-1].measured), ("aa", measured)):
        axes.annotate(label(rule), (1, height), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                      va="center", color=COLOURS[rule], annotation_clip=False)  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="S / n, rows remembered for each input", ylabel="matrix angle (degrees)", ylim=(0, 35))
    axes.set_title("W moving: noise and lag", fontsize=10, loc="left")


def _draw_decays(axes, lessons):
    for (decay, momentum), points in lessons.items():
        steps, measured, theory = zip(*points)
        axes.plot(steps, theory, color=COLOURS["kp"], linewidth=1.4)
        axes.plot(steps[::25], measured[::25], color=COLOURS["kp"], linestyle="", marker=MARKERS["kp"], markersize=4)
        text = f"λ = {decay:g}" + (f", momentum {momentum:g}" if momentum else "")
        end = next((p for p in points if p.measured < 1e-3), points[-1])
        axes.annotate(text, (end.at, max(end.measured, 1.3e-3)), xytext=(6, 0), textcoords="offset points", va="center",
                      color=COLOURS["kp"], annotation_clip=False)  # fmt: skip
    axes.set_yscale("log")
    axes.set(xlabel="training step", ylabel="‖W − Bᵀ‖, relative to its start", xlim=(0, steps[-1]), ylim=(1e-3, 1.3))
    axes.set_title("KP: points measured, lines by theory", fontsize=10, loc="left")


def _beside_theory(axes, points, rule):
    at, measured, theory = zip(*points)
    axes.plot(at, theory, color=COLOURS[rule], linewidth=1.4)
    axes.plot(at, measured, color=COLOURS[rule], linestyle="", marker=MARKERS[rule], markersize=5)
