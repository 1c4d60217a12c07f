"""Pairs of manual pages, out of Debian packages, in the layout of LRA's Retrieval: does one refer to the other?

A page's text is its source without macros, without its names and without the section SEE ALSO, whose entries are the
links. Pages whose names begin alike are in one split, and so are both pages of a pair: no text is seen in two. The
negative pairs of a package combine the pages of its positive ones anew, so that a page occurs as often in one kind as
in the other: who reads one text alone, or tells packages apart, is right by chance.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from cab.data import debian
from cab.data.download import alone, placed
from cab.data.splits import part

FOLDER = "manpages"
PACKAGES = ("manpages-dev", "libcurl4-doc", "libssl-doc", "libx11-doc")
SHARES = {"validation": 0.15, "test": 0.3, "train": 0.55}
ALIKE = 3  # letters by which names begin alike
MARK = ".cab-made.json"  # stands beside files that we made
LONGEST = 10_000  # characters of a text, as LRA cuts them
INSIDE = "usr/share/man/man"

Pair = tuple[str, str]

_LEFT_OUT = ("", "NAME", "SEE ALSO", "COPYRIGHT", "COLOPHON")
_LINK = re.compile(r"([A-Za-z_][\w.+:-]*)\s*\((\d)\w*\)")
_ESCAPES = ((r"\-", "-"), (r"\(aq", "'"), (r"\(dq", '"'), (r"\e", "\\"), (r"\|", ""), (r"\&", ""), (r"\^", ""))
_FONT = re.compile(r"\\f(\[\w*\]|\(..|.)|\\s[+-]?\d|\\\*?\(..|\\\*.|\\[nh]'[^']*'|\\[:/,c]")
_SPACED = ("B", "I", "SM", "SB", "SS")  # macros that say their arguments
_JOINED = ("BR", "RB", "BI", "IB", "RI", "IR")  # in alternating fonts, without spaces


def fetch(folder: Path, names: dict[str, str]) -> None:
    """Write the pairs into `folder`/manpages; `names` says which file each split has."""
    target = folder / FOLDER
    with alone(folder):
        if target.exists():
            return
        with debian.packages(PACKAGES) as found, placed(target) as beside:
            rows: dict[str, list[str]] = {split: [] for split in names}
            for package in PACKAGES:
                pages, links = read(debian.files(found[package][1], INSIDE))
                for split, lines in rows.items():
                    lines += [_row(label, pair, pages) for label, pair in pairs(pages, links, split)]
            for split, name in names.items():
                text = "".join(sorted(rows[split], key=_hash))
                (beside / name).write_text(text, encoding="utf-8", newline="\n")
            versions = {name: version for name, (version, _) in sorted(found.items())}
            (beside / MARK).write_text(json.dumps({"packages": versions}) + "\n", encoding="utf-8")


def pairs(pages: dict[str, str], links: set[Pair], split: str) -> list[tuple[int, Pair]]:
    """Return a split's linked pairs, in random directions, each with a pair that is not linked."""
    own = {page for page in pages if part(page[:ALIKE].lower().encode(), SHARES) == split}
    linked = sorted((pair for pair in links if own.issuperset(pair)), key=lambda pair: _hash(" ".join(pair)))
    linked = [pair if _hash("".join(pair)) < "8" else pair[::-1] for pair in linked]
    left = [second for _, second in linked]
    left = left[len(left) // 2 :] + left[: len(left) // 2]
    found: list[tuple[int, Pair]] = []
    used: set[Pair] = set()
    for first, second in linked:
        fitting = ((at, (min(first, other), max(first, other))) for at, other in enumerate(left) if other != first)
        at, new = next(((at, new) for at, new in fitting if new not in links and new not in used), (0, None))
        if new is not None:  # a page that all others refer to is in no pair
            used.add(new)
            found += [(1, (first, second)), (0, (first, left.pop(at)))]
    return found


def read(files: Iterable[tuple[str, bytes]]) -> tuple[dict[str, str], set[Pair]]:
    """Return text by name of page, and the links between the pages."""
    pages: dict[str, str] = {}
    refers: dict[str, list[str]] = {}
    called: dict[str, str] = {}  # another name -> the page
    for file, content in files:
        stem, section = file.split("/")[-1].removesuffix(".gz").rsplit(".", 1)
        source = (gzip.decompress(content) if file.endswith(".gz") else content).decode(errors="replace")
        if source.startswith(".so "):
            continue  # another name, which the page itself says too
        key = f"{stem}({section[0]})"
        pages[key], name, also = plain(source)
        for other in name.split(" - ")[0].split(","):
            called.setdefault(f"{other.strip()}({section[0]})", key)
        refers[key] = [f"{other}({number})" for other, number in _LINK.findall(also)]
    found = {
        (key, other if other in pages else called.get(other, key)) for key, all_ in refers.items() for other in all_
    }
    return pages, {(min(pair), max(pair)) for pair in found if pair[0] != pair[1]}


def plain(source: str) -> tuple[str, str, str]:
    """Return a page's text, its section NAME and its section SEE ALSO, without roff."""
    sections: dict[str, list[str]] = {}
    title, skipped_to = "", ""
    for line in source.splitlines():
        if skipped_to:
            skipped_to = "" if line.rstrip().endswith(skipped_to) else skipped_to
        elif line.startswith((".de", ".ig")):
            skipped_to = ".."
        elif line.startswith(".TS"):
            skipped_to = "."  # the end of a table's format
        elif line.startswith(".SH"):
            title = _clean(" ".join(_arguments(line)[1:]))
        elif line[:1] not in ("'", ".") or line[1:3].strip() in (*_SPACED, *_JOINED, "IP"):
            sections.setdefault(title, []).append(_said(line))
    texts = {name: " ".join(" ".join(lines).split()) for name, lines in sections.items()}
    body = " ".join(f"{name} {text}" for name, text in texts.items() if name not in _LEFT_OUT)
    return body[:LONGEST], texts.get("NAME", ""), texts.get("SEE ALSO", "")


def _said(line: str) -> str:
    if not line.startswith("."):
        return _clean(line)
    macro, *words = _arguments(line)
    if macro == ".IP":
        return _clean("".join(words[:1]))
    return _clean(("" if macro[1:] in _JOINED else " ").join(words))


def _arguments(line: str) -> list[str]:
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', line)]


def _clean(text: str) -> str:
    for escape, said in _ESCAPES:
        text = text.replace(escape, said)
    return _FONT.sub("", text)


def _row(label: int, pair: Pair, pages: dict[str, str]) -> str:
    return "\t".join([f"{label}.0", *pair, *(pages[page] for page in pair)]) + "\n"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
