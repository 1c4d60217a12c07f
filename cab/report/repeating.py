"""Which cases a row is of, and the command that repeats it."""

import re
from collections.abc import Iterator, Sequence

from cab.analysis.leaderboard import Board, Line
from cab.report.case_ids import short_ids
from cab.report.command import command


def line_command(line: Line, board: Board) -> str:
    """Return the command that measures a line again, every seed; "" of what needs no mechanism."""
    if not line.seeds or line.grade == "floor":
        return ""
    return command(line.mechanism, line.params, line.backend, board.question, ",".join(map(str, line.seeds)))


def repeating(boards: Sequence[Board]) -> Iterator[str]:
    """Yield, of boards that differ in their lengths alone, each row's case ids and the command of all its lengths."""
    ids = short_ids(case_id for board in boards for line in board.lines for case_id in line.case_ids)
    rows: dict[object, list[tuple[Line, Board]]] = {}
    for board in boards:
        for line in board.lines:
            if line_command(line, board):
                rows.setdefault(line.key, []).append((line, board))
    for cells in rows.values():
        cases = []
        for line, board in cells:
            length = f"n = {board.question['n']:,}: " if len(boards) > 1 else ""
            cases.append(length + ", ".join(ids[case_id] for case_id in line.case_ids))
        yield f"{cells[0][0].label}, {'; '.join(cases)}"
        for text in _commands(cells):
            yield f"  {text}"


def _commands(cells: Sequence[tuple[Line, Board]]) -> list[str]:
    """Return the commands of a row, as one that sweeps the lengths where they differ in nothing else."""
    commands = [line_command(line, board) for line, board in cells]
    lengths = ",".join(str(board.question["n"]) for _, board in cells)
    swept = {re.sub(r"(?<= seq_len=)\d+(?= )", lengths, text) for text in commands}
    return list(swept) if len(swept) == 1 else commands
