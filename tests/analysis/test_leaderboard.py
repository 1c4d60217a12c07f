"""A board as a table."""

from tests.analysis.example_rows import board_of, training_rows


def test_a_board_is_a_table_too() -> None:
    frame = board_of(training_rows("softmax", (0.64, 0.62, 0.66)), training_rows("linear", (0.6, 0.58, 0.61))).frame()
    assert frame["mechanism"].tolist() == ["softmax", "linear"]
    assert frame[["accuracy", "accuracy_low", "accuracy_high"]].values.tolist() == [
        [0.64, 0.62, 0.66],
        [0.6, 0.58, 0.61],
    ]
