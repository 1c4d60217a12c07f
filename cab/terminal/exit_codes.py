"""What every command does with errors: one message, and the exit code that says which kind it was."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from cab.errors import Unsupported, UsageError


def with_exit_codes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: an error that the user can correct is one message and exit code 2; Ctrl-C is exit code 130."""

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

    return wrapped
