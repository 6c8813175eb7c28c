"""Arguments of commands: options that take several paths, and key=value wherever it stands."""

from __future__ import annotations

import argparse
import glob
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError

OPTION = re.compile(r"[A-Za-z_][\w.-]*=")  # how key=value begins


def add_paths(parser: argparse.ArgumentParser, option: str, about: str, **keywords: object) -> None:
    """Add an option that takes paths and may be given again; `parse_arguments` makes them one list."""
    parser.add_argument(option, nargs="+", action="append", metavar="PATH", help=about, **keywords)


def one_path(text: str) -> Path:
    """The type of an option that takes one path. UserError for an empty one, of a variable that is not set."""
    if not text:
        raise UserError("a path is empty; is a variable of the shell not set?")
    return Path(os.path.expanduser(text))


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, of a parser that may have `overrides`: then what looks like key=value is one of these wherever it
    stands, in the order of the command line, and ./key=value is a path.

    Patterns that no shell has replaced (*.jpg) are. UserError where an option that takes paths gets none.
    """
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_intermixed_args(argv)
    given, has_options = vars(arguments), "overrides" in arguments
    options = set(given.get("overrides", ()))
    for name, groups in given.items():
        if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
            continue
        paths = [[word for word in group if not (has_options and OPTION.match(word))] for group in groups]
        if not all(paths):
            word = groups[paths.index([])][0]
            raise UserError(f"--{name} {word}: names no file; if it is one, give it as ./{word}")
        options |= {word for group in groups for word in group} - {word for group in paths for word in group}
        given[name] = [path for group in paths for word in group for path in _expanded(one_path(word))]
    if has_options:
        arguments.overrides = [word for word in argv if word in options]
    return arguments


def _expanded(path: Path) -> list[Path]:
    """The paths that a pattern matches, sorted; what is no pattern, or matches nothing, is a path."""
    found = [] if os.path.lexists(path) else sorted(map(Path, glob.glob(str(path))))
    return found or [path]
