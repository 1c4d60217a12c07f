"""Portraits: the folders as they are prepared, and images that are none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cab.data import faces
from cab.errors import UsageError


def save(file: Path, value: int, side: int = 128, mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).convert(mode).save(file)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("COUNT", 5), ("HELD_OUT", 2), ("TESTED", 3)):
        monkeypatch.setattr(faces, name, value)
    for i in range(5):
        save(tmp_path / faces.FFHQ / "hr_128" / f"{i:05}.png", i)
    for i in range(4):
        save(tmp_path / faces.CELEBA / "hr_128" / f"{i:05}.png", 100 + i)
    return tmp_path


def test_the_test_is_of_other_people_than_training_and_validation(folder: Path) -> None:
    splits = faces.read_tree(folder)
    assert splits is not None
    values = {split: [int(each[i][0, 0, 0]) for i in range(len(each))] for split, each in splits.items()}
    assert values == {"train": [0, 1, 2], "validation": [3, 4], "test": [100, 101, 102]}
    assert splits["train"][0].shape == (128, 128, 3) and splits["train"][0].dtype == np.uint8


def test_a_data_set_that_is_missing_or_half_copied_is_refused_and_none_is_none(folder: Path) -> None:
    assert faces.read_tree(folder / faces.FFHQ) is None
    (folder / faces.CELEBA / "hr_128" / "00000.png").unlink()
    (folder / faces.CELEBA / "hr_128" / "00001.png").unlink()
    with pytest.raises(UsageError, match="celebahq_16_128/hr_128 has 2 files .*, and 3 are needed"):
        faces.read_tree(folder)
    (folder / faces.FFHQ).rename(folder / "elsewhere")
    with pytest.raises(UsageError, match="ffhq_16_128/hr_128 has 0 files"):
        faces.read_tree(folder)


def test_an_image_of_another_size_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "small.png", 1, side=64)
    with pytest.raises(UsageError, match=r"small\.png has 64 x 64 pixels, not 128 x 128: prepare it so"):
        faces.read_image(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("not found")
    with pytest.raises(UsageError, match=r"text\.png cannot be read as an image"):
        faces.read_image(tmp_path / "text.png")
    save(tmp_path / "grey.png", 7, mode="L")
    assert faces.read_image(tmp_path / "grey.png").shape == (128, 128, 3)
