"""`cab plot mask`: what a mechanism's queries see, as a picture (PNG) and as a page that needs nothing else (HTML)."""

from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cab.attention.attention_map import AttentionMap, effective_map
from cab.contracts.case import Case
from cab.contracts.pattern import Pattern
from cab.errors import Unsupported, UsageError
from cab.paths import write_whole
from cab.planning.plan import plan

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, GAP, LINE = 384, 12, 16  # pixels: about a panel's side, between two panels, of a line of text
UNSEEN, FAINT, FULL, BELOW = (255, 255, 255), (214, 228, 242), (8, 48, 107), (165, 15, 21)


def plot_masks(overrides: list[str], folder: Path, out: Console) -> None:
    """Draw the map of each case that the overrides name, with 64 tokens unless they say otherwise."""
    given = {key.lstrip("+") for key, equals, _ in (o.partition("=") for o in overrides) if equals}
    usual = [f"{key}={value}" for key, value in (("task", "speed"), ("seq_len", 64)) if key not in given]
    if "mechanism" not in given:
        raise UsageError("which mechanism? Write cab plot mask mechanism=NAME pattern=CS")
    planned = plan([*overrides, *usual, *(["meters=[flops]"] if "meters" not in given else [])])
    refused = {each.case.id: each.refusal[1] for each in planned.measurements if each.refusal}
    written: set[str] = set()
    for case in planned.cases:
        try:
            if case.id in refused:
                raise UsageError(refused[case.id])
            found = effective_map(case)
        except (UsageError, Unsupported) as error:
            if len(planned.cases) == 1:
                raise
            out.print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
            continue
        name = f"mask-{Path(case.mechanism.partition(':')[0]).stem}-{case.pattern}"
        name = f"{name}-{case.id[:6]}" if name in written else name
        written.add(name)
        drawn = BytesIO()
        picture(found, caption(case, found)).save(drawn, format="PNG")
        try:
            write_whole(folder / f"{name}.png", drawn.getvalue())
            write_whole(folder / f"{name}.html", page(case, found, drawn.getvalue()))
        except OSError as error:
            raise UsageError(f"cannot write into {folder}: {error.strerror}; choose another with --out") from error
        out.print(f"{folder / name}.png and .html", highlight=False, markup=False, soft_wrap=True)


def caption(case: Case, found: AttentionMap) -> list[str]:
    """Say what is drawn, in two lines."""
    params = ", ".join(f"{key}={value}" for key, value in case.params.items())
    what = "weights" if found.linear else "footprint of the Jacobian"
    return [
        f"{case.mechanism}, {Pattern.of(case.pattern).title}" + (f" ({params})" if params else ""),
        f"{case.n} queries down, {case.m} keys across; {what}; {found.visible_share:.1%} of the pairs are seen",
    ]


def picture(found: AttentionMap, lines: list[str]) -> "Image":
    """Return the heads' maps side by side; white is what is not seen, red a weight below zero."""
    import numpy as np
    from PIL import Image, ImageDraw

    weights = found.weights.numpy()
    heads, n, m = weights.shape
    pixels = max(1, SIDE // max(n, m))
    # the root of the share of the row's largest, so that small weights show, too
    depth = np.sqrt(np.abs(weights) / np.maximum(np.abs(weights).max(-1, keepdims=True), 1e-300))[..., None]
    dark = np.where(weights[..., None] < 0, np.array(BELOW), np.array(FULL))
    colours = np.where(weights[..., None] == 0, np.array(UNSEEN), np.array(FAINT) * (1 - depth) + dark * depth)
    colours = colours.round().astype(np.uint8).repeat(pixels, 1).repeat(pixels, 2)
    high, wide = n * pixels + 2, m * pixels + 2
    top = GAP + LINE * len(lines) + GAP // 2
    width = max(GAP + heads * (wide + GAP), GAP + 7 * max(map(len, lines)))
    sheet = Image.new("RGB", (width, top + high + LINE + GAP), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        pen.text((GAP, GAP + row * LINE), line, fill=(0, 0, 0))
    for head in range(heads):
        left = GAP + head * (wide + GAP)
        pen.rectangle((left, top, left + wide - 1, top + high - 1), outline=(120, 120, 120))
        sheet.paste(Image.fromarray(colours[head]), (left + 1, top + 1))
        pen.text((left, top + high + 2), f"head {head + 1}", fill=(80, 80, 80))
    return sheet


def page(case: Case, found: AttentionMap, png: bytes) -> str:
    """Return the picture and its facts as one HTML file."""
    title, about = (escape(line) for line in caption(case, found))
    facts: dict[str, Any] = {
        "drawn": "the weight of each key in each row: attend with v = identity"
        if found.linear
        else "how far each row moves with each token: the output is not linear in v",
        "colours": "white: not seen at all; light to dark: the root of the share of the row's largest; red: below zero",
        "pairs with a key after the query": found.future_pairs
        if not Pattern.of(case.pattern).cross
        else "no order in cross",
        "inputs": f"random q and k, seed {case.seed}; {case.heads} heads of {case.dim}",
    }
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>" for key, value in facts.items())
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title><style>"
        "body{font:16px system-ui,sans-serif;margin:2rem;color:#222;background:#fff}"
        "img{max-width:100%;image-rendering:pixelated}th{text-align:left;padding-right:1rem;font-weight:500}"
        f"</style></head><body><h1>{title}</h1><p>{about}</p>"
        f"<img alt='{title}' src='data:image/png;base64,{b64encode(png).decode()}'><table>{rows}</table>"
        "</body></html>\n"
    )
