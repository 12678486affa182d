"""The parser of the command line, of what each command takes: its help, its errors, and what every command has."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from lumbar import __version__
from lumbar.issues import InputError
from lumbar.terminal.values import given
from lumbar.terminal.voice import show

Argument = tuple[str, dict[str, Any]]
#: Of every command.
_SPEECH: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    (
        "-v",
        "--verbose",
        {"action": "store_true", "help": "also say each step, a line an event, on standard error (default: no)"},
    ),
    (
        "-q",
        "--quiet",
        {"action": "store_true", "help": "say nothing but results, what they rest on, and failures (default: no)"},
    ),
)
_LOG: Final[Argument] = (
    "--log",
    {
        "type": given,
        "metavar": "LOG",
        "help": "append one line an event to this file; no patient data, no paths (default: none)",
    },
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as every other sentence is said: printable, and of sane length."""

    def error(self, message: str) -> NoReturn:
        super().error(str(InputError(message)))

    def print_help(self, file: Any = None) -> None:
        """Write the help; argparse itself passes over what a full disk refuses."""
        if file is None:
            show(self.format_help().rstrip("\n"))
        else:
            super().print_help(file)


def _with_default(options: dict[str, Any]) -> str:
    """The help of an option with the value that it has where nobody gives one."""
    default = options.get("default")
    told = "/".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"{options['help']} (default: {told})" if default not in (None, []) else str(options["help"])


def _called() -> str:
    """The command line as it was called: by `python -m`, as pip installs it, or by its script."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("lumbar", "__main__.py"):
        return "python -m lumbar"
    return "lumbar" if called.name in ("lumbar", "lumbar.exe") else "train_utils.py"


def make_parser(
    description: str,
    commands: Mapping[str, Callable[..., int]],
    arguments: Mapping[str, Sequence[Argument]],
    examples: Mapping[str, str],
) -> argparse.ArgumentParser:
    """The parser of a command line; `run_command` of what it parses is the function of that command.

    By command: what it takes, flags with argparse's options, and one call of it; that of `predict` is the whole's.
    """
    prog = _called()
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=f"example: {prog} {examples['predict']}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lumbar {__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run in commands.items():
        summary = (run.__doc__ or "").strip()
        example = f"example: {parser.prog} {examples[name]}"
        command = parsers.add_parser(name, help=summary, description=summary, epilog=example)
        command.set_defaults(run_command=run)
        for flag, options in (*arguments[name], _LOG):
            command.add_argument(flag, **options | {"help": _with_default(options)})
        either = command.add_mutually_exclusive_group()
        for short, long, options in _SPEECH:
            either.add_argument(short, long, **options)
    return parser
