"""The one exception for a mistake that the user can mend, and how a command ends on it."""

from collections.abc import Callable, Sequence

from utils.log import complain


class UserError(Exception):
    """One clear line: what is wrong, where (file, key, image) and what is allowed instead."""

    exit_code = 2


def run_command(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command's `main` and return its exit code: its own (None: 0), 2 on a UserError, 130 on Ctrl-C."""
    try:
        return main(argv) or 0
    except UserError as error:
        complain(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
