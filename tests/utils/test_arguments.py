"""Options that take several paths, and key=value among them."""

import argparse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.arguments import add_paths, one_path, parse_arguments
from utils.errors import UserError


def parsed(*argv, options=True):
    parser = argparse.ArgumentParser()
    add_paths(parser, "--input", "images")
    add_paths(parser, "--latents", "more", default=[])
    parser.add_argument("--output", type=one_path)
    if options:
        parser.add_argument("overrides", nargs="*")
    return parse_arguments(parser, argv)


def paths(*names):
    return [Path(name) for name in names]


def test_several_paths_and_options_in_any_order():
    found = parsed("a=1", "--input", "a.jpg", "b c.jpg", "x.y=2", "--output", "out", "a=3", "--input", "d", "a=4")
    assert found.input == paths("a.jpg", "b c.jpg", "d") and found.overrides == ["a=1", "x.y=2", "a=3", "a=4"]
    assert found.latents == [] and found.output == Path("out") and parsed().input is None


def test_a_file_with_an_equals_sign():
    found = parsed("--input", "./name=1.jpg", "folder/b=2.jpg", "=.jpg", "1=2.jpg", "é.jpg")
    assert found.input == paths("name=1.jpg", "folder/b=2.jpg", "=.jpg", "1=2.jpg", "é.jpg") and found.overrides == []
    assert parsed("--input", "name=1.jpg", options=False).input == paths("name=1.jpg")  # no options: no doubt


def test_a_variable_that_is_not_set():
    for argv in (["--input", "a", ""], ["--output", ""]):
        with pytest.raises(UserError, match="a path is empty"):
            parsed(*argv)


def test_patterns_that_no_shell_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.jpg", "c.png", "[x].jpg"):
        Path(name).touch()
    found = parsed("--input", "[ab].jpg", "[x].jpg", "none*.jpg").input
    assert found == paths("a.jpg", "b.jpg", "[x].jpg", "none*.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parsed("--input=~/c.png", "--output=~/o").input == [tmp_path / "c.png"]


words = st.sampled_from(["a.jpg", "k=1", "s.k=2", "./k=1", "b", "k=3"])


@settings(max_examples=40)
@given(st.lists(st.lists(words, min_size=1, max_size=4), min_size=1, max_size=4))
def test_no_word_is_lost(groups):
    """Whatever follows --input, however often, is a path or an option, in its order."""
    argv = [word for group in groups for word in ("--input", *group)]
    option = {word: "=" in word and not word.startswith("./") for group in groups for word in group}
    if any(all(option[word] for word in group) for group in groups):
        with pytest.raises(UserError, match=r"--input \S+=\S*: names no file; if it is one, give it as ./"):
            parsed(*argv)
        return
    found, given_words = parsed(*argv), [word for group in groups for word in group]
    assert found.input == [Path(word) for word in given_words if not option[word]]
    assert found.overrides == [word for word in given_words if option[word]]
