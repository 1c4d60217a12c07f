"""Portraits for super-resolution, as SR3's usual open implementation prepares them: PNG files of 128 by 128 pixels.

    ffhq_16_128/hr_128/00000.png ...        FFHQ (Karras et al., arXiv 1812.04948), 70,000: training and validation
    celebahq_16_128/hr_128/00000.png ...    CelebA-HQ (Karras et al., arXiv 1710.10196): the test

Both are for non-commercial use, by their own terms, and are not downloaded from here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cab.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

FFHQ, CELEBA = "ffhq_16_128", "celebahq_16_128"
IMAGES = "hr_128"
SIDE = 128
COUNT = 70_000  # of FFHQ
HELD_OUT = 1_000  # of them, the last: validation
TESTED = 100  # of CelebA-HQ, the first, as CAB's
BRING = f"put {FFHQ}/{IMAGES} and {CELEBA}/{IMAGES} there: PNG files of {SIDE} x {SIDE} pixels of FFHQ and CelebA-HQ"


class Portraits:
    """Images that are read when they are asked for: item i is uint8 (128, 128, 3)."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Array:
        return read_image(self.files[index])


def read_tree(folder: Path) -> dict[str, Portraits] | None:
    """Return the images of each split, or None where `folder` has neither data set.

    `UsageError` where one is missing, or has not as many images as are needed.
    """
    trees = {name: folder / name / IMAGES for name in (FFHQ, CELEBA)}
    if not any((folder / name).exists() for name in trees):
        return None
    files = {name: sorted(tree.glob("*.png")) for name, tree in trees.items()}
    for name, least in ((FFHQ, COUNT), (CELEBA, TESTED)):
        if len(files[name]) < least:
            raise UsageError(
                f"{trees[name]} has {len(files[name]):,} files *.png, and {least:,} are needed. Complete it, or move "
                "both away."
            )
    faces = files[FFHQ][:COUNT]
    splits = {"train": faces[:-HELD_OUT], "validation": faces[-HELD_OUT:], "test": files[CELEBA][:TESTED]}
    return {split: Portraits(each) for split, each in splits.items()}


def read_image(file: Path) -> Array:
    """Read an image of 128 by 128 pixels, uint8 (128, 128, 3); `UsageError` where it is none, or of another size."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(f"{file} cannot be read as an image: {error}") from None
    if pixels.shape[:2] != (SIDE, SIDE):
        raise UsageError(f"{file} has {pixels.shape[1]} x {pixels.shape[0]} pixels, not {SIDE} x {SIDE}: prepare it so")
    return pixels
