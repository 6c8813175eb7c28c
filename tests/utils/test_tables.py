"""Tables come back as they were written, and no text in them is a formula."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils import tables
from utils.log import printable
from utils.tables import FORMULA, read_table, write_table

TEXTS = st.text().map(printable) | st.sampled_from(FORMULA).flatmap(lambda start: st.text().map(start.__add__))


@given(names=st.lists(TEXTS.map(printable)), figure=st.floats(allow_nan=False) | st.none())
def test_a_round_trip(tmp_path_factory, names, figure):
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    write_table(path, ["name", "figure"], [{"name": name, "figure": figure} for name in names])
    text = "" if figure is None else str(figure)
    assert read_table(path) == [{"name": name, "figure": text} for name in names]


def test_no_text_is_a_formula(tmp_path):
    write_table(tmp_path / "a.csv", ["name", "figure"], [{"name": "=1+1", "figure": -1.5}, {"name": "'", "figure": 2}])
    assert (tmp_path / "a.csv").read_text() == "name,figure\n'=1+1,-1.5\n'',2\n"


@pytest.mark.parametrize("content", [b"\xff", b'name\n"a', b"name\n" + b"a" * 200_000, b"name\n" * 100])
def test_what_is_no_table(tmp_path, monkeypatch, content):
    monkeypatch.setattr(tables, "LARGEST", 300_000 if len(content) > 500 else 400)
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        read_table(tmp_path / "a.csv")
