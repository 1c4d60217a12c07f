"""LRA Pathfinder (Tay et al., arXiv 2011.04006, section 2.5): does a dashed path join the two dots?

    x  0 0 12 191 ... 0     the pixels row by row, 0 to 255; `seq_len` is their number (1,024; 4,096 for 64 by 64)
    target 1                1 joined, 0 not joined

Images come from files in the release's layout; without such files, each is generated when it is read. `protocol=lra`
has two quirks of the released code: `zero-is-padding` (black pixels are masked as if they were padding) and
`padding-is-pooled`.
"""

from cab.suites.pathfinder import Pathfinder


class LraPathfinder(Pathfinder):
    """Pathfinder images, by default 32 pixels wide, with a transformer encoder."""

    fetched_size = 32
    data = (
        "pathfinder32",
        "pathfinder64",
        "pathfinder/pathfinder32",
        "pathfinder/pathfinder64",
        "lra_release/pathfinder32",
        "lra_release/pathfinder64",
        "lra_release/lra_release/pathfinder32",
        "lra_release/lra_release/pathfinder64",
    )
