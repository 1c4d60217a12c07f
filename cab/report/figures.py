"""What all pictures share: colours, sizes, a title with the conditions below it, and names without markup."""

from typing import TYPE_CHECKING

from cab.analysis.leaderboard import Board
from cab.report import notes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#1a1e23", "#0b5cad", "#b3470d", "#00795b", "#a13d86", "#7a6000", "#4b5fd0", "#8c2d2d")
GREY, DARK_GREY = "#c3c8ce", "#59616b"
WIDTH, HEIGHT = 1100, 700


def plain(text: str) -> str:
    """Return a text in which plotly sees no tag."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def styled(figure: "Figure", title: str, board: Board | None, height: int = HEIGHT, subtitle: str = "") -> "Figure":
    """Give a figure its size and title; below the title stand the conditions of a board, or `subtitle`."""
    if board is not None:
        subtitle = f"{notes.conditions(board)} · {board.machine}"
    figure.update_layout(
        template="plotly_white", width=WIDTH, height=height, font={"size": 13},
        title={"text": f"{plain(title)}<br><sup>{plain(subtitle)}</sup>"}, margin={"l": 70, "r": 20, "t": 90, "b": 60},
    )  # fmt: skip
    return figure
