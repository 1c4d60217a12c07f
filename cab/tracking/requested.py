"""Which two sides a command line asks for."""

from collections.abc import Sequence
from pathlib import Path

from cab.errors import UsageError, unknown
from cab.plugins import registry
from cab.tracking.cases import TrackedCase
from cab.tracking.sides import (
    NoData,
    Side,
    changed,
    default_branch,
    folder_side,
    installed_side,
    merge_base,
    repository_of,
    side_of,
)


def requested_sides(
    base: str | None, head: str | None, against: str | None, same_environment: bool
) -> tuple[Side, Side]:
    """Return base and head; `UsageError` where they are not two, or where one cannot be made.

    Without `base` it is the commit that head has in common with the default branch; `REVISION...` is the one that it
    has in common with a revision.
    """
    if base is not None and against is not None:
        raise UsageError("compare with what? Give BASE, as HEAD~1, or --against backend=NAME, one of the two")
    head_side = _here() if head is None else _side(head, same_environment)
    if against is not None:
        return changed(head_side, against), head_side
    if base is None or base.endswith("..."):
        repository = repository_of(Path.cwd())
        other = base.removesuffix("...") if base else default_branch(repository)
        base = merge_base(repository, other, head or "HEAD")
    return _side(base, same_environment), head_side


def refuse_unknown_change(against: str, cases: Sequence[TrackedCase]) -> None:
    """Raise `UsageError` for a mechanism that there is not, and for a backend that none of the cases' mechanisms has.

    The same names on another revision are found out by measuring alone.
    """
    key, _, value = against.partition("=")
    if key == "mechanism":
        registry.card("mechanism", value)
    if key == "backend":
        names = sorted({str(case.question["mechanism"]) for case in cases})
        backends = {backend for name in names for backend in registry.card("mechanism", name).backends}
        if value not in backends:
            raise unknown("backend", value, backends)


def _here() -> Side:
    """Return the checkout that the working folder is in, as it is; elsewhere this installation."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "cab" / "__init__.py").is_file():
            return folder_side(folder)
    return installed_side()


def _side(text: str, same_environment: bool) -> Side:
    try:
        return side_of(text, Path.cwd(), same_environment)
    except NoData as error:
        # what cannot be built on one side gives no data for any case
        return Side(f"{text} (not built)", f"not built: {text}", unbuilt=str(error))
