"""The front of what can be had: general text that is lost against the score on what was learned.

Usage: python3 tools/bench/front.py front.svg LABEL=STREAM_OUT[:METHOD] ...
  STREAM_OUT: a folder that `sapwood stream --general ... --out` wrote; METHOD: a title of its table.
Prints the points as a Markdown table and writes the plot. Standard library only.
"""

import json
import sys
from pathlib import Path
from statistics import mean

WIDTH, HEIGHT, MARGIN = 640, 400, 60


def point(source: str) -> tuple[float, float]:
    """Mean over seeds of general text's rise in percent, and of ACC in bits per byte."""
    folder, _, method = source.partition(":")
    runs = json.loads((Path(folder) / "stream.json").read_text())["runs"]
    runs = [run["matrix"] for run in runs if not method or run["method"] == method]
    rise = mean(100 * (run["general"][-1] / run["general"][0] - 1) for run in runs)
    return rise, mean(mean(run["rows"][-1]) for run in runs)


def scale(values: list[float], start: float, end: float):
    """A line from the values' range, a little wider, onto start..end."""
    low, high = min(values), max(values)
    pad = 0.08 * (high - low or 1)
    low, high = low - pad, high + pad
    return lambda value: start + (value - low) / (high - low) * (end - start)


def plot(points: dict[str, tuple[float, float]]) -> str:
    across = scale([x for x, _ in points.values()], MARGIN, WIDTH - MARGIN)
    up = scale([y for _, y in points.values()], HEIGHT - MARGIN, MARGIN / 2)

    def mark(label: str, x: float, y: float) -> str:
        # A label stands where there is room for it.
        side, anchor = (7, "start") if across(x) < WIDTH / 2 else (-7, "end")
        place = f'x="{across(x) + side:.1f}" y="{up(y) - 6:.1f}" text-anchor="{anchor}"'
        point = f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="4" fill="#2b6cb0"/>'
        return f"{point}<text {place}>{label}: {x:+.1f} %, {y:.3f}</text>"

    marks = "".join(mark(label, x, y) for label, (x, y) in points.items())
    axes = (
        f'<path d="M{MARGIN} {MARGIN / 2}V{HEIGHT - MARGIN}H{WIDTH - MARGIN / 2}" fill="none" stroke="#444"/>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 20}" text-anchor="middle">general text, rise in percent</text>'
        f'<text x="18" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 18 {HEIGHT / 2})">'
        "ACC, bits per byte (lower is better)</text>"
    )
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">{style}{axes}{marks}</svg>\n'


def main() -> None:
    if len(sys.argv) < 3 or any("=" not in part for part in sys.argv[2:]):
        sys.exit(__doc__)
    points = {label: point(source) for label, _, source in (part.partition("=") for part in sys.argv[2:])}
    print("| | general | ACC |\n|---|---|---|")
    for label, (rise, acc) in points.items():
        print(f"| {label} | {rise:+.2f} % | {acc:.4f} |")
    Path(sys.argv[1]).write_text(plot(points))


if __name__ == "__main__":
    main()
