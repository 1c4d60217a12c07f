"""Takes measurements out of a store."""

import shutil
from collections.abc import Collection

from cab.errors import UsageError
from cab.store.store import Store


def remove(store: Store, files: Collection[str]) -> int:
    """Delete files, named as in `Measurement.file`, with the state of trainings that were interrupted; count them.

    Each file goes whole. Killed on its way, some are left, and the same request removes these. `UsageError` where the
    folder cannot be written.
    """
    removed = 0
    for file in sorted(files):
        try:
            store.path(file).unlink()
            removed += 1
        except FileNotFoundError:  # another process was faster
            pass
        except OSError as error:
            raise UsageError(f"{store.path(file)} cannot be removed: {error.strerror}; {removed} files are") from error
        # a training is named after its scores, and may have no file where a meter alone asked for it
        for state in (store.folder / "checkpoints").glob(f"{file.partition('-')[0]}-*"):
            shutil.rmtree(state, ignore_errors=True)
    return removed
