"""The one exception for a mistake that the user can mend, and how a command ends on it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from utils import log
from utils.signals import SIGNALS, raising_signals

STOPPED = tuple(128 + number for number in SIGNALS)

LACKS = ("allocate memory", "can't start new thread", "could not create a primitive")  # the last one: of oneDNN


class UserError(Exception):
    """One clear line: what is wrong, where (file, key, image) and what is allowed instead."""

    exit_code = 2


def run_command(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command's `main` and return its exit code: its own (None: 0), 2 on a UserError, 130 on Ctrl-C, 143 on
    SIGTERM, 129 on SIGHUP.

    1 where memory does not suffice (PyTorch reports that as a RuntimeError), or where all is done but stdout lies on a
    full disk. A reader of stdout who has gone is no error.
    """
    with log.steady_streams() as stdout:
        code = _run(main, argv)
        if code == 0 and stdout.failed and not isinstance(stdout.failed, BrokenPipeError):
            log.error(f"error: all is done, but stdout cannot be written: {stdout.failed.strerror}")
            return 1
        return code


def _run(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None) -> int:
    try:
        with raising_signals():
            return main(argv) or 0
    except UserError as error:
        log.error(f"error: {error}")
        return error.exit_code
    except SystemExit as error:
        if error.code not in STOPPED:
            raise
        log.error("terminated")
        return error.code
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        log.error("error: out of memory; smaller blocks (infer.block, infer.memory_mib) or train.batch take less")
        return 1


@contextmanager
def failures(path: Path, failed: dict[Path, str]) -> Iterator[None]:
    """Enters into `failed`, and names in one line, an image that cannot be done; other errors are ours and go on."""
    try:
        with naming(path):
            yield
    except UserError as error:
        failed[path] = log.printable(str(error))
        log.error(f"failed: {error}")


@contextmanager
def naming(*images: Path | str) -> Iterator[None]:
    """Makes errors name the image, or the images, that they come from; a lack of memory becomes a UserError."""
    names = ", ".join(map(str, images))
    try:
        yield
    except UserError as error:
        if not any(str(image) in str(error) for image in images):
            error.args = (f"{names}: {error}",)
        raise
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        torch.cuda.empty_cache()
        raise UserError(f"{names}: out of memory; smaller blocks need less (infer.block, infer.memory_mib)") from error


def out_of_memory(error: Exception) -> bool:
    """Whether an error is a lack of memory, in NumPy's words, in PyTorch's, or where a thread gets none."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(words in str(error) for words in LACKS)
