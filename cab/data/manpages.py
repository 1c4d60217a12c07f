"""Pairs of manual pages from Debian packages, in the layout of LRA's Retrieval: does one page refer to the other?

A page's text is its source without macros, without its names and without the section SEE ALSO. The entries of that
section are the links between pages.

Pages whose names begin with the same letters are in one split, and a pair has both pages in its split: no text is in
two splits. A split has as many unlinked pairs as linked ones, and they recombine the pages of the linked pairs of its
package. A page therefore occurs about as often in both kinds, and neither one text alone nor the package tells which
kind a pair is.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from cab.data import debian
from cab.data.download import atomic_folder, folder_lock, gunzip
from cab.data.splits import split_of

FOLDER = "manpages"
PACKAGES = ("manpages-dev", "libcurl4-doc", "libssl-doc", "libx11-doc")
SHARES = {"validation": 0.15, "test": 0.3, "train": 0.55}
PREFIX = 3  # letters of a name that decide its split
MARKER = ".cab-made.json"  # is beside files that `fetch` made
LONGEST = 10_000  # characters of a text, as LRA cuts them
MOST_BYTES = 16 << 20  # of a page's source; the longest has one
PACKAGE_FOLDER = "usr/share/man/man"

Pair = tuple[str, str]

_SKIPPED_SECTIONS = ("", "NAME", "SEE ALSO", "COPYRIGHT", "COLOPHON")
_LINK = re.compile(r"([A-Za-z_][\w.+:-]*)\s*\((\d)\w*\)")
_ESCAPES = ((r"\-", "-"), (r"\(aq", "'"), (r"\(dq", '"'), (r"\e", "\\"), (r"\|", ""), (r"\&", ""), (r"\^", ""))
_FONT = re.compile(r"\\f(\[\w*\]|\(..|.)|\\s[+-]?\d|\\\*?\(..|\\\*.|\\[nh]'[^']*'|\\[:/,c]")
_SPACED_MACROS = ("B", "I", "SM", "SB", "SS")  # their arguments are text, with spaces between
_JOINED_MACROS = ("BR", "RB", "BI", "IB", "RI", "IR")  # their arguments are text in alternating fonts, without spaces


def fetch(folder: Path, names: dict[str, str]) -> None:
    """Write the pairs into `folder`/manpages; `names` has the file name of each split."""
    target = folder / FOLDER
    with folder_lock(folder):
        if target.exists():
            return
        with debian.packages(PACKAGES) as packages, atomic_folder(target) as temporary:
            rows: dict[str, list[str]] = {split: [] for split in names}
            for package in PACKAGES:
                pages, links = read_pages(debian.files(packages[package][1], PACKAGE_FOLDER))
                for split, split_rows in rows.items():
                    split_rows += [_tsv_row(label, pair, pages) for label, pair in make_pairs(pages, links, split)]
            for split, name in names.items():
                text = "".join(sorted(rows[split], key=_hash))
                (temporary / name).write_text(text, encoding="utf-8", newline="\n")
            versions = {name: version for name, (version, _) in sorted(packages.items())}
            (temporary / MARKER).write_text(json.dumps({"packages": versions}) + "\n", encoding="utf-8")


def make_pairs(pages: dict[str, str], links: set[Pair], split: str) -> list[tuple[int, Pair]]:
    """Return a split's linked pairs (label 1), in random directions, each followed by an unlinked pair (label 0)."""
    own = {page for page in pages if split_of(page[:PREFIX].lower().encode(), SHARES) == split}
    linked = sorted((pair for pair in links if own.issuperset(pair)), key=lambda pair: _hash(" ".join(pair)))
    linked = [pair if _hash("".join(pair)) < "8" else pair[::-1] for pair in linked]
    partners = [second for _, second in linked]
    partners = partners[len(partners) // 2 :] + partners[: len(partners) // 2]
    labelled: list[tuple[int, Pair]] = []
    unlinked: set[Pair] = set()
    for first, second in linked:
        candidates = ((i, (min(first, page), max(first, page))) for i, page in enumerate(partners) if page != first)
        free = ((i, pair) for i, pair in candidates if pair not in links and pair not in unlinked)
        index, pair = next(free, (0, None))
        if pair is not None:  # else `first` is linked with every page that is left, and makes no pair of either kind
            unlinked.add(pair)
            labelled += [(1, (first, second)), (0, (first, partners.pop(index)))]
    return labelled


def read_pages(files: Iterable[tuple[str, bytes]]) -> tuple[dict[str, str], set[Pair]]:
    """Read the files of manual pages: name of the page -> text, and the links between pages, each sorted."""
    pages: dict[str, str] = {}
    references: dict[str, list[str]] = {}
    aliases: dict[str, str] = {}  # alias -> name of the page
    for file, content in files:
        stem, section = file.split("/")[-1].removesuffix(".gz").rsplit(".", 1)
        source = (gunzip(content, MOST_BYTES) if file.endswith(".gz") else content).decode(errors="replace")
        if source.startswith(".so "):
            continue  # an alias, which the page itself lists too
        name = f"{stem}({section[0]})"
        pages[name], name_section, see_also = plain(source)
        for alias in name_section.split(" - ")[0].split(","):
            aliases.setdefault(f"{alias.strip()}({section[0]})", name)
        references[name] = [f"{other}({number})" for other, number in _LINK.findall(see_also)]
    links = {
        (name, other if other in pages else aliases.get(other, name))
        for name, others in references.items()
        for other in others
    }
    return pages, {(min(link), max(link)) for link in links if link[0] != link[1]}


def plain(source: str) -> tuple[str, str, str]:
    """Return a page's text, its section NAME and its section SEE ALSO, without roff."""
    sections: dict[str, list[str]] = {}
    title, skip_until = "", ""
    for line in source.splitlines():
        if skip_until:
            skip_until = "" if line.rstrip().endswith(skip_until) else skip_until
        elif line.startswith((".de", ".ig")):
            skip_until = ".."
        elif line.startswith(".TS"):
            skip_until = "."  # the end of a table's format
        elif line.startswith(".SH"):
            title = _without_escapes(" ".join(_arguments(line)[1:]))
        elif line[:1] not in ("'", ".") or line[1:3].strip() in (*_SPACED_MACROS, *_JOINED_MACROS, "IP"):
            sections.setdefault(title, []).append(_line_text(line))
    texts = {name: " ".join(" ".join(lines).split()) for name, lines in sections.items()}
    body = " ".join(f"{name} {text}" for name, text in texts.items() if name not in _SKIPPED_SECTIONS)
    return body[:LONGEST], texts.get("NAME", ""), texts.get("SEE ALSO", "")


def _line_text(line: str) -> str:
    if not line.startswith("."):
        return _without_escapes(line)
    macro, *words = _arguments(line)
    if macro == ".IP":
        return _without_escapes("".join(words[:1]))
    return _without_escapes(("" if macro[1:] in _JOINED_MACROS else " ").join(words))


def _arguments(line: str) -> list[str]:
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', line)]


def _without_escapes(text: str) -> str:
    for escape, character in _ESCAPES:
        text = text.replace(escape, character)
    return _FONT.sub("", text)


def _tsv_row(label: int, pair: Pair, pages: dict[str, str]) -> str:
    return "\t".join([f"{label}.0", *pair, *(pages[page] for page in pair)]) + "\n"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
