"""What all pictures share: colours, sizes, a title with the conditions below it, and names without markup."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cab.analysis.leaderboard import Board
from cab.analysis.questions import QUESTION
from cab.errors import UsageError
from cab.report import notes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#1a1e23", "#0b5cad", "#b3470d", "#00795b", "#a13d86", "#7a6000", "#4b5fd0", "#8c2d2d")
GREY, DARK_GREY = "#c3c8ce", "#59616b"
WIDTH, HEIGHT = 1100, 700


def plain(text: str) -> str:
    """Return a text in which plotly sees no tag."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def largest_group(boards: Sequence[Board], free: Sequence[str]) -> list[Board]:
    """Return, of the groups of boards that differ in nothing but `free`, the one with most lines."""
    groups: dict[tuple[object, ...], list[Board]] = {}
    for board in boards:
        key = (*(board.question[name] for name in QUESTION if name not in free), board.machine)
        groups.setdefault(key, []).append(board)
    if not groups:
        raise UsageError(notes.EMPTY)
    return max(groups.values(), key=lambda group: sum(len(board.lines) for board in group))


def styled(figure: "Figure", title: str, board: Board | None, height: int = HEIGHT, subtitle: str = "") -> "Figure":
    """Give a figure its size and title; below the title stand the conditions of a board, or `subtitle`."""
    if board is not None:
        subtitle = f"{notes.conditions(board)} · {board.machine}"
    figure.update_layout(
        template="plotly_white", width=WIDTH, height=height, font={"size": 13},
        title={"text": f"{plain(title)}<br><sup>{plain(subtitle)}</sup>"}, margin={"l": 70, "r": 20, "t": 90, "b": 60},
    )  # fmt: skip
    return figure
