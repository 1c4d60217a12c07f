"""`cab plot mask`: which keys each query reads, as a picture (PNG) and as an HTML page with the picture in it."""

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

# where the overrides do not say otherwise; no meter runs, and flops plans without a device
DEFAULTS = {"task": "speed", "seq_len": "64", "meters": "[flops]"}
PANEL_SIDE, GAP, LINE_HEIGHT, CHARACTER_WIDTH = 384, 12, 16, 7  # pixels
WHITE, BLACK, FRAME_GREY, TEXT_GREY = (255, 255, 255), (0, 0, 0), (120, 120, 120), (80, 80, 80)
PALE_BLUE, DARK_BLUE, DARK_RED, ORANGE = (214, 228, 242), (8, 48, 107), (165, 15, 21), (255, 140, 0)


def plot_masks(overrides: list[str], folder: Path, out: Console) -> None:
    """Draw the map of each case that the overrides name.

    A case that cannot be drawn is left out with a message. `UsageError` or `Unsupported` where it is the only one.
    """
    keys = {key.lstrip("+") for key, equals, _ in (override.partition("=") for override in overrides) if equals}
    if "mechanism" not in keys:
        raise UsageError("which mechanism? Write cab plot mask mechanism=NAME pattern=CS")
    planned = plan([*overrides, *(f"{key}={value}" for key, value in DEFAULTS.items() if key not in keys)])
    refusals = {each.case.id: each.refusal[1] for each in planned.measurements if each.refusal}
    names: set[str] = set()
    for case in planned.cases:
        try:
            if case.id in refusals:
                raise UsageError(refusals[case.id])
            attention_map = effective_map(case)
        except (UsageError, Unsupported) as error:
            if len(planned.cases) == 1:
                raise
            out.print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
            continue
        name = _file_name(case, names)
        names.add(name)
        png = BytesIO()
        sheet = picture(attention_map, caption(case, attention_map))
        if raster := key_raster(case):
            sheet = beside(sheet, one_query(attention_map, raster, *centre(case)))
        sheet.save(png, format="PNG")
        try:
            write_whole(folder / f"{name}.png", png.getvalue())
            write_whole(folder / f"{name}.html", html_page(case, attention_map, png.getvalue()))
        except OSError as error:
            raise UsageError(f"cannot write into {folder}: {error.strerror}; choose another with --out") from error
        out.print(f"{folder / name}.png and .html", highlight=False, markup=False, soft_wrap=True)


def _file_name(case: Case, names: set[str]) -> str:
    """Return a name without suffix that is none of `names`."""
    file, _, class_name = case.mechanism.partition(":")
    name = f"mask-{'-'.join(filter(None, (Path(file).stem, class_name)))}-{case.pattern}"
    return f"{name}-{case.id[:6]}" if name in names else name


def caption(case: Case, attention_map: AttentionMap) -> list[str]:
    """Return two lines that say what is drawn."""
    params = ", ".join(f"{name}={value}" for name, value in case.params.items())
    title = f"{case.mechanism}, {Pattern.of(case.pattern).title}"
    drawn = "weights" if attention_map.linear else "norms of the Jacobian"
    visible = f"{attention_map.visible_share:.1%} of the pairs are seen"
    return [
        f"{title} ({params})" if params else title,
        f"{case.n} queries down, {case.m} keys across; {drawn}; {visible}",
    ]


def picture(attention_map: AttentionMap, lines: list[str]) -> "Image":
    """Return the maps of the heads side by side, below some lines of text.

    White is a pair that is not seen. The darker, the larger the weight within its row; red is a weight below zero.
    """
    weights = attention_map.weights.numpy()  # (heads, n, m)
    return _sheet(_coloured(weights), lines)


def key_raster(case: Case) -> tuple[int, ...] | None:
    """Return the raster of the keys; None where they are a sequence."""
    raster = case.settings.get("source_raster" if Pattern.of(case.pattern).cross else "raster")
    return tuple(raster) if raster else None


def centre(case: Case) -> tuple[int, str]:
    """Return the index of the query in the middle of its raster, or of its sequence, and its place in words."""
    raster = case.settings.get("raster") or [case.n]
    place = [side // 2 for side in raster]
    index = 0
    for side, position in zip(raster, place, strict=True):
        index = index * side + position
    return index, f"query {index}" if len(raster) == 1 else f"query at {', '.join(map(str, place))}"


def one_query(attention_map: AttentionMap, raster: tuple[int, ...], query: int, place: str) -> "Image":
    """Return what one query reads, laid out on the raster of the keys; of three axes the planes lie side by side."""
    import numpy as np

    row = attention_map.weights[:, query].numpy()
    planes = row.reshape(len(row), -1, *raster[-2:])  # (heads, planes, h, w)
    depth = np.abs(_finite(row)).max(-1)[:, None, None, None]
    colours = _colours(planes, depth)
    gap = np.full((*colours.shape[:3], 1, 3), 255, dtype=np.uint8)
    strip = np.concatenate([piece for i in range(planes.shape[1]) for piece in (colours[:, i], gap[:, i])][:-1], 2)
    return _sheet(strip, [place, f"over {' x '.join(map(str, raster))} keys"])


def beside(left: "Image", right: "Image") -> "Image":
    """Return two pictures side by side."""
    from PIL import Image

    both = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), WHITE)
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


def _coloured(weights: Any) -> Any:
    """Return colours (heads, n, m, 3) of weights (heads, n, m), the depth relative to the largest of each row."""
    import numpy as np

    return _colours(weights, np.abs(_finite(weights)).max(-1, keepdims=True))


def _finite(weights: Any) -> Any:
    """Return the weights with zeros in place of what is no number, or infinite."""
    import numpy as np

    return np.where(np.isfinite(weights), weights, 0)


def _colours(weights: Any, largest: Any) -> Any:
    import numpy as np

    # the square root makes small weights visible
    depth = np.sqrt(np.abs(_finite(weights)) / np.maximum(largest, 1e-300))[..., None]
    dark = np.where(weights[..., None] < 0, np.array(DARK_RED), np.array(DARK_BLUE))
    colours = np.where(weights[..., None] == 0, np.array(WHITE), np.array(PALE_BLUE) * (1 - depth) + dark * depth)
    colours = np.where(np.isfinite(weights)[..., None], colours, np.array(ORANGE))
    return colours.round().astype(np.uint8)


def _sheet(colours: Any, lines: list[str]) -> "Image":
    """Return the panels of the heads side by side, below some lines of text."""
    from PIL import Image, ImageDraw

    heads, n, m = colours.shape[:3]
    pixels_per_token = max(1, PANEL_SIDE // max(n, m))
    pixels = colours.repeat(pixels_per_token, 1).repeat(pixels_per_token, 2)
    panel_height, panel_width = n * pixels_per_token + 2, m * pixels_per_token + 2  # with a frame
    top = GAP + LINE_HEIGHT * len(lines) + GAP // 2
    width = max(GAP + heads * (panel_width + GAP), GAP + CHARACTER_WIDTH * max(map(len, lines)))
    sheet = Image.new("RGB", (width, top + panel_height + LINE_HEIGHT + GAP), WHITE)
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        pen.text((GAP, GAP + i * LINE_HEIGHT), line, fill=BLACK)
    for head in range(heads):
        left = GAP + head * (panel_width + GAP)
        pen.rectangle((left, top, left + panel_width - 1, top + panel_height - 1), outline=FRAME_GREY)
        sheet.paste(Image.fromarray(pixels[head]), (left + 1, top + 1))
        pen.text((left, top + panel_height + 2), f"head {head + 1}", fill=TEXT_GREY)
    return sheet


def html_page(case: Case, attention_map: AttentionMap, png: bytes) -> str:
    """Return the picture and its facts as one HTML file."""
    title, subtitle = (escape(line) for line in caption(case, attention_map))
    facts = {
        "drawn": "the weight of each key in each row: attend with v = identity"
        if attention_map.linear
        else "how far each row moves with each token: the output is not linear in v",
        "colours": "white: not seen; light to dark: the root of the weight over the row's largest; red: below zero; "
        "orange: no number, or infinite",
        "pairs with a key after the query": "no order in cross"
        if Pattern.of(case.pattern).cross
        else str(attention_map.future_pairs),
        "inputs": f"random q and k, seed {case.seed}; {case.heads} heads of {case.dim}",
    }
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title><style>"
        "body{font:16px system-ui,sans-serif;margin:2rem;color:#222;background:#fff}"
        "img{max-width:100%;image-rendering:pixelated}th{text-align:left;padding-right:1rem;font-weight:500}"
        f"</style></head><body><h1>{title}</h1><p>{subtitle}</p>"
        f"<img alt='{title}' src='data:image/png;base64,{b64encode(png).decode()}'><table>{rows}</table>"
        "</body></html>\n"
    )
