"""Lines for the user on streams that fail, close, or speak other encodings, and names that hold anything."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils import log

ROOT = Path(__file__).parents[2]
TALK = """
import sys
from tqdm import tqdm
from utils import log
with log.steady_streams() as stdout:
    for number in tqdm(range(50), file=sys.stderr, mininterval=0):
        log.info(f"line {number}")
    print("printed")
open(sys.argv[1], "w").write("done")
sys.exit(3 if stdout.failed else 0)
"""
WHOLE = "import sys; from utils import log, errors; sys.exit(errors.run_command(lambda argv: log.info('said')))"
PLACES = ["2>&1 | head -1", ">&- 2>&- <&-", "2>/dev/full"]


def talk(program, place, *arguments):
    """The exit code of a program, and what it says on stderr besides bars."""
    command = f"set -o pipefail; {sys.executable} -c '{program}' {' '.join(map(str, arguments))} {place}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, [line for line in re.split("[\r\n]", done.stderr) if line.strip() and "|" not in line]


@pytest.mark.parametrize("place", PLACES)
def test_the_work_goes_on_where_nobody_listens(tmp_path, place):
    code, said = talk(TALK, place, tmp_path / "end")
    assert code in ((3, 0) if "|" in place else (0,)) and said == [] and (tmp_path / "end").exists()


def test_a_full_disk_of_a_log_is_one_line_after_all_is_done():
    program = WHOLE.replace("'", '"')
    expected = ["error: all is done, but stdout cannot be written: No space left on device"]
    assert talk(program, ">/dev/full") == (1, expected) and talk(program, "| true")[0] == 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_whatever_the_encoding(monkeypatch, encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", file)
    log.info("café \udce9 → 👍\nnext")
    first, second = file.buffer.getvalue().decode(encoding).splitlines()
    assert first.startswith("caf") and "\\xe9" in first and second == "next"


def test_other_ranks_say_nothing(capsys):
    log.info("one")
    log.info("two", main=False)
    assert capsys.readouterr().out == "one\n"


def test_no_streams_at_all(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    log.info("nobody")
    log.error("listens")
    assert list(log.progress(range(20), "bar")) == list(range(20))


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)))
def test_a_name_is_shown_on_one_line_in_characters_that_do_nothing(text):
    shown = log.printable(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1 and not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in shown)
    assert log.printable(shown) == shown
