"""A badge: who is best on a board, as a small SVG for a README."""

from html import escape

from cab.analysis.leaderboard import Board
from cab.errors import UsageError
from cab.report.units import display_unit

_CHARACTER = 6.6  # pixels of an average character at 11 px
_PAD = 7


def badge(board: Board) -> str:
    """Return the badge of a board: the question at the left, its best mechanism with the value at the right."""
    best = next((line for line in board.lines if line.rank == 1), None)
    if best is None:
        if board.headline.higher_is_better is None:
            raise UsageError(f"{board.headline.name} has no direction, so that no mechanism is best in it")
        raise UsageError("no mechanism has a value on this board; choose another with filters")
    headline = board.headline
    cell = best.cells[headline.name]
    unit = display_unit(headline.unit, [cell.value])
    question = board.question
    left = f"{question['task']} {question['pattern']} n={question['n']:,}"
    tied = " ≈" if best.ranks and best.ranks[1] > 1 else ""
    right = f"{best.label} {unit.text(cell.value or 0.0)} {unit.name}{tied}".strip()
    widths = [round(len(text) * _CHARACTER) + 2 * _PAD for text in (left, right)]
    total, label = sum(widths), escape(f"{left}: {right}", quote=True)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" aria-label="{label}">
<title>{label}</title>
<rect width="{total}" height="20" rx="3" fill="#0b5cad"/><rect width="{widths[0]}" height="20" rx="3" fill="#3d444c"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{_PAD}" y="14">{escape(left)}</text><text x="{widths[0] + _PAD}" y="14">{escape(right)}</text>
</g>
</svg>
"""
