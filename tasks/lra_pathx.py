"""LRA Path-X (Tay et al., arXiv 2011.04006, section 2.6): Pathfinder on images of 128 by 128 pixels.

    x  0 0 12 191 ... 0     the pixels row by row, 0 to 255; `seq_len` is their number (16,384; 65,536 for Path-256)
    target 1                1 joined, 0 not joined

Images come from files in the release's layout; without such files, each is generated when it is read. `protocol=lra`
has two quirks of the released code: `zero-is-padding` (black pixels are masked as if they were padding) and
`padding-is-pooled`.
"""

from cab.suites.pathfinder import Pathfinder


class LraPathx(Pathfinder):
    """Pathfinder images, by default 128 pixels wide, with a transformer encoder."""

    fetched_size = 128
    data = (
        "pathfinder128",
        "pathfinder256",
        "pathfinder/pathfinder128",
        "pathfinder/pathfinder256",
        "lra_release/pathfinder128",
        "lra_release/pathfinder256",
        "lra_release/lra_release/pathfinder128",
        "lra_release/lra_release/pathfinder256",
    )
