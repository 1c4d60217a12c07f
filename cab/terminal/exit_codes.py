"""What every command does with errors: one message, and the exit code that says which kind it was."""

import errno
import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from cab.errors import Unsupported, UsageError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # a full disk, a user's quota


def with_exit_codes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: an error that the user can correct is one message and exit code 2; Ctrl-C is exit code 130.

    A full disk is one message and exit code 1: what was written is whole, because files are moved into place.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (UsageError, Unsupported) as error:
            typer.echo(f"cab: {error}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            typer.echo(
                "cab: interrupted; finished measurements are kept, and the same command continues from there", err=True
            )
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `cab list | head`
            sys.stderr.close()
            raise typer.Exit(0) from None
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            where = f" ({error.filename})" if error.filename else ""
            rest = "what is finished is kept, and the same command continues from there when there is room"
            typer.echo(f"cab: {error.strerror}{where}; {rest}", err=True)
            raise typer.Exit(1) from error

    return wrapped
