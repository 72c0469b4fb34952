"""How the program behaves as a whole: exit statuses, one sentence for bad input, no traceback unless asked for."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

BAD_INPUT, BUG, INTERRUPTED = 2, 1, 130
_UsageError = typer.BadParameter.__bases__[0]      # typer brings its own click or uses the installed one; both have this


class Face(TyperGroup):
    """The command group of gemvane: what is typed wrongly ends in one sentence on stderr and exit status 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """A group named without a command shows its help."""
        return super().parse_args(ctx, args or ["--help"])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, windows_expand_args: bool = True, **extra: Any) -> Any:
        """Run the command line and leave the program with its exit status."""
        words = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in words or os.environ.get("GEMVANE_DEBUG", "") not in ("", "0")
        words = [word for word in words if word != "--debug"]
        try:
            status = super().main(words, "gemvane", complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # so that the flush at exit is quiet too
            status = BUG
        except (KeyboardInterrupt, typer.Abort):
            status = INTERRUPTED
        except Exception as error:
            if debug:
                traceback.print_exc()
            status, sentence = judged(error)
            typer.echo(f"error: {sentence}", err=True)
        sys.exit(status if isinstance(status, int) else 0)


def judged(error: Exception) -> tuple[int, str]:
    """Exit status and sentence of whatever went wrong."""
    if isinstance(error, _UsageError):
        return BAD_INPUT, _usage(error)
    if isinstance(error, ImportError):
        return BAD_INPUT, f"{error}. `gemvane doctor` shows what is installed."
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return BAD_INPUT, f"{where}{error.strerror or error}."
    if isinstance(error, ValueError):
        return BAD_INPUT, str(error)
    return BUG, f"this is a fault in gemvane, not in your input ({type(error).__name__}: {error}). With --debug it shows where."


def _usage(error: Any) -> str:
    """What click says of a wrong option or argument, and where to look."""
    message = error.format_message().strip()
    command = error.ctx.command_path if error.ctx is not None else "gemvane"
    return f"{message[:1].lower()}{message[1:].rstrip('.')}{'' if message.endswith('?') else '.'} `{command} --help` shows what there is."
