"""The drawings of a report as SVG. Colours of text and lines are CSS variables of the page, so they follow its theme.

Each chart gives an empty text where there is nothing to draw. Everything a reader points at has `data-tip`, a text that
the page's script shows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from lab.report.collect import ReportedRun
from lab.report.report import Condition, Report
from lab.report.tables import show_interval, show_number
from lab.text import as_number, by_number, printable

WIDTH, LEFT, RIGHT = 720, 70, 20
MOST_CURVES = 8
MOST_POINTS = 80
PALETTE = ("#3b7dd8", "#e07b39", "#3f9e5a", "#c6473f", "#8a63c9", "#8c6d4f", "#d267a6", "#6f7d8c")

Points = Sequence[tuple[float, float]]


def tip(text: str) -> str:
    return f' data-tip="{escape(printable(text))}"'


def text_at(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    shown = printable(text if len(text) <= 60 else text[:59] + "…")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(shown)}</text>'


def svg(height: float, body: str, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(printable(title))}">{body}</svg>'


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear map from [low, high] to [start, end]; a single value goes to the middle."""
    if high <= low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within [low, high]."""
    if high <= low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def color_of(share: float) -> str:
    """From blue, at 0, to orange, at 1."""
    low, high = (59, 125, 216), (240, 150, 40)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def line(points: Points, color: str, kind: str = "line", label: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" class="{kind}" stroke="{color}"{tip(label) if label else ""}/>'


def axes(x_of: Callable[[float], float], y_of: Callable[[float], float], x: Points, bottom: float, label: str) -> str:
    """The grid of a chart.  x: (low, high) of both axes."""
    (x_low, x_high), (y_low, y_high) = x
    parts = []
    for value in ticks(y_low, y_high):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(value):.1f}" y2="{y_of(value):.1f}" class="grid"/>'
        )
        parts.append(text_at(LEFT - 8, y_of(value) + 4, f"{value:.4g}", "end"))
    for value in ticks(x_low, x_high, 8):
        parts.append(text_at(x_of(value), bottom + 18, f"{value:.6g}", "middle"))
    parts.append(text_at(WIDTH - RIGHT, bottom + 36, label, "end", "soft"))
    return "".join(parts)


def interval_chart(report: Report) -> str:
    """The mean of each condition with its interval, and a dot for each run."""
    rows = [one for one in report.ranked if one.numbers][:40]
    if not rows:
        return ""
    ends = [value for one in rows for value in one.numbers]
    ends += [end for one in rows if one.interval for end in (one.interval.low, one.interval.high)]
    left = 240
    x_of = scale(min(ends), max(ends), left, WIDTH - RIGHT)
    parts = [text_at(x_of(value), 16, f"{value:.4g}", "middle") for value in ticks(min(ends), max(ends), 6)]
    for place, one in enumerate(rows):
        y = 40 + 26 * place
        parts.append(text_at(left - 12, y + 4, one.label if len(one.label) < 34 else one.label[:33] + "…", "end"))
        if one.interval:
            x1, x2 = x_of(one.interval.low), x_of(one.interval.high)
            parts.append(f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}" class="range"/>')
        dots = [f'<circle cx="{x_of(value):.1f}" cy="{y}" r="3" class="dot"/>' for value in one.numbers]
        label = f"{one.label}: {show_number(one.mean)} ({show_interval(one.interval) or 'one run'}), n = {len(dots)}"
        mean = f'<circle cx="{x_of(one.mean or 0):.1f}" cy="{y}" r="5" class="mean"{tip(label)}/>'
        parts.append("".join(dots) + mean)
    return svg(50 + 26 * len(rows), "".join(parts), f"{report.metric} of each condition")


def curve_chart(report: Report, metric: str) -> str:
    """The mean of a logged metric over the steps for the best conditions, with a band from its least to its largest."""
    drawn = [(one, mean_curve(one, metric)) for one in report.ranked[:MOST_CURVES]]
    drawn = [(one, curve) for one, curve in drawn if len(curve) > 1]
    if not drawn:
        return ""
    rows = np.array([row for _, curve in drawn for row in curve])
    x_low, x_high, y_low, y_high = rows[:, 0].min(), rows[:, 0].max(), rows[:, 2].min(), rows[:, 3].max()
    x_of, y_of = scale(x_low, x_high, LEFT, WIDTH - RIGHT), scale(y_low, y_high, 300, 14)
    parts = [axes(x_of, y_of, [(x_low, x_high), (y_low, y_high)], 300, "step")]
    for place, (one, curve) in enumerate(drawn):
        color = PALETTE[place]
        edge = [(x_of(x), y_of(low)) for x, _, low, _ in curve] + [(x_of(x), y_of(top)) for x, _, _, top in curve][::-1]
        outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
        parts.append(f'<polygon points="{outline}" fill="{color}" class="band"/>')
        parts.append(line([(x_of(x), y_of(mean)) for x, mean, _, _ in curve], color, "line", one.label))
        parts += [
            f'<circle cx="{x_of(x):.1f}" cy="{y_of(mean):.1f}" r="4" fill="{color}" class="spot"'
            f"{tip(f'{one.label}, step {x:g}: {show_number(mean)} ({show_number(low)} to {show_number(top)})')}/>"
            for x, mean, low, top in curve
        ]
        y = 356 + 20 * place
        parts.append(f'<rect x="{LEFT}" y="{y - 10}" width="14" height="10" fill="{color}"/>')
        parts.append(text_at(LEFT + 22, y, one.label))
    return svg(360 + 20 * len(drawn), "".join(parts), f"{metric} over the steps")


def mean_curve(condition: Condition, metric: str) -> list[tuple[float, float, float, float]]:
    """(step, mean, least, largest) over the condition's runs, at most 80 points."""
    at: dict[int, list[float]] = {}
    for run in condition.runs:
        lines = run.saved.metrics if run.state in ("done", "running", "interrupted") else []
        for entry in lines:
            value = entry.get(metric)
            if isinstance(value, int | float) and math.isfinite(value):
                at.setdefault(entry["step"], []).append(float(value))
    steps = sorted(at)
    steps = [step for place, step in enumerate(steps) if place % max(1, len(steps) // MOST_POINTS) == 0]
    return [(step, float(np.mean(at[step])), min(at[step]), max(at[step])) for step in steps]


def coordinate_chart(report: Report) -> str:
    """Parallel coordinates: a line for each run through its values of the keys and its score."""
    runs = [run for run in report.runs if run.score(report.metric) is not None]
    if not report.keys or len(runs) < 2:
        return ""
    keys = report.keys[:8]
    scores = [run.score(report.metric) or 0.0 for run in runs]
    places = {key: axis_places([run.value(key) for run in runs]) for key in keys}
    x_of = scale(0, len(keys), LEFT, WIDTH - LEFT)
    score_of = scale(min(scores), max(scores), 290, 30)
    parts = []
    for column, key in enumerate(keys):
        x = x_of(column)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="30" y2="290" class="axis"/>' + text_at(x, 16, key, "middle"))
        for value, y in list(places[key].items())[:24]:
            parts.append(text_at(x - 6, y + 4, value, "end", "small"))
    x = x_of(len(keys))
    parts.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="30" y2="290" class="axis"/>' + text_at(x, 16, report.metric, "middle")
    )
    parts += [text_at(x + 6, score_of(value) + 4, f"{value:.4g}") for value in ticks(min(scores), max(scores))]
    share_of = scale(min(scores), max(scores), 0, 1)
    for run, score in sorted(zip(runs, scores, strict=True), key=lambda pair: pair[1]):
        points = [(x_of(column), places[key][str(run.value(key))]) for column, key in enumerate(keys)]
        label = f"{run.id} {' '.join(f'{key}={run.value(key)}' for key in report.keys)}: {show_number(score)}"
        parts.append(line([*points, (x, score_of(score))], color_of(share_of(score)), "thin", label))
    return svg(310, "".join(parts), "parallel coordinates of the runs")


def axis_places(values: Sequence[str | None]) -> dict[str, float]:
    """The height of each value on its axis: numbers by size, in logarithms where they span a factor of ten."""
    texts = sorted({str(value) for value in values})
    numbers = [as_number(text) for text in texts]
    if None in numbers or len(texts) < 2:
        y_of = scale(0, max(1, len(texts) - 1), 280, 40)
        return {text: y_of(place) for place, text in enumerate(texts)}
    known = [number for number in numbers if number is not None]
    is_wide = min(known) > 0 and max(known) / min(known) >= 10
    sized = [math.log(number) if is_wide else number for number in known]
    y_of = scale(min(sized), max(sized), 280, 40)
    return {text: y_of(size) for size, text in sorted(zip(sized, texts, strict=True))}


def heat_chart(report: Report) -> str:
    """The mean score by the two keys with the most values, where there are two."""
    if len(report.keys) < 2:
        return ""
    values = {key: sorted_values(report.runs, key) for key in report.keys}
    first, second = sorted(report.keys, key=lambda key: -len(values[key]))[:2]
    columns, rows = values[first][:40], values[second][:40]
    cells: dict[tuple[str, str], list[float]] = {}
    for run in report.runs:
        if (score := run.score(report.metric)) is not None:
            cells.setdefault((str(run.value(first)), str(run.value(second))), []).append(score)
    means = {cell: float(np.mean(scores)) for cell, scores in cells.items()}
    if len(means) < 2:
        return ""
    share_of = scale(min(means.values()), max(means.values()), 0.0, 1.0)
    width, height = (WIDTH - 180 - RIGHT) / len(columns), 30
    parts = []
    for place, column in enumerate(columns):
        parts.append(text_at(180 + width * (place + 0.5), 36, column[: max(3, int(width / 7))], "middle"))
    for level, row in enumerate(rows):
        y = 44 + height * level
        parts.append(text_at(172, y + 20, row, "end"))
        for place, column in enumerate(columns):
            mean = means.get((column, row))
            if mean is None:
                continue
            label = f"{first}={column} {second}={row}: {show_number(mean)}, n = {len(cells[column, row])}"
            x = 180 + width * place
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width - 2:.1f}" height="{height - 2}" '
                f'fill="{color_of(share_of(mean))}"{tip(label)}/>'
            )
            if width > 44:
                parts.append(text_at(x + width / 2, y + 19, show_number(mean), "middle", "on"))
    parts.append(text_at(WIDTH - RIGHT, 14, first, "end", "soft") + text_at(4, 14, second, "start", "soft"))
    return svg(54 + height * len(rows), "".join(parts), f"{report.metric} by {first} and {second}")


def sorted_values(runs: Sequence[ReportedRun], key: str) -> list[str]:
    texts = {str(run.value(key)) for run in runs}
    return sorted(texts, key=by_number)


def importance_chart(importance: Mapping[str, float] | None) -> str:
    """A bar for each key."""
    if not importance:
        return ""
    parts = []
    for place, (key, share) in enumerate(importance.items()):
        y = 10 + 26 * place
        parts.append(text_at(200, y + 14, key, "end"))
        parts.append(
            f'<rect x="210" y="{y}" width="{max(1.0, 420 * share):.1f}" height="18" fill="{PALETTE[0]}"'
            f"{tip(f'{key}: {share:.3f}')}/>"
        )
        parts.append(text_at(218 + max(1.0, 420 * share), y + 14, f"{share:.2f}"))
    return svg(20 + 26 * len(importance), "".join(parts), "importance of each key")


def best_of_chart(expected: Sequence[float], metric: str) -> str:
    """The expected best score of k runs over k."""
    if len(expected) < 4:
        return ""
    chosen = sorted({round(k) for k in np.geomspace(1, len(expected), 40)})
    low, high = min(expected), max(expected)
    x_of, y_of = scale(1, len(expected), LEFT, WIDTH - RIGHT), scale(low, high, 220, 14)
    points = [(x_of(k), y_of(expected[k - 1])) for k in chosen]
    spots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{PALETTE[0]}" class="spot"'
        f"{tip(f'best of {k}: {show_number(expected[k - 1])}')}/>"
        for k, (x, y) in zip(chosen, points, strict=True)
    ]
    grid = axes(x_of, y_of, [(1, len(expected)), (low, high)], 220, "runs tried")
    return svg(262, grid + line(points, PALETTE[0]) + "".join(spots), f"expected best {metric}")
