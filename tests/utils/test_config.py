"""Configs: defaults, layers, overrides, and what is said about a wrong one."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config import COMMAND_LINE, DEFAULT, dump_config, load_config, save_config, validate_section
from utils.errors import UserError, run_command
from utils.schema import SCHEMA, Integer, ListOf, flat_keys


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def keys_of(values: dict, prefix: str = "") -> list[str]:
    keys = []
    for name, value in values.items():
        keys += keys_of(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
    return keys


def value_at(config: dict, key: str):
    for name in key.split("."):
        config = config[name]
    return config


def message(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_schema_and_defaults_have_the_same_keys_in_the_same_order():
    assert flat_keys(SCHEMA) == keys_of(yaml.safe_load(DEFAULT.read_text()))


def test_no_key_hides_a_method_of_dict():
    names = {name for key in flat_keys(SCHEMA) for name in key.split(".")}
    assert not names & set(dir(dict))


def test_every_key_of_the_defaults_has_its_final_type():
    config = load_config()
    assert config.model.encoder.widths == [128, 256, 512, 512]
    assert all(type(value_at(config, key)) in (int, float, str, bool, list, type(None)) for key in flat_keys(SCHEMA))


def test_layers_go_from_base_to_file_to_command_line(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path, "base.yaml", "seed: 1\ntrain: {batch: 2, steps: 3}\nmodel: {stages: 5}\n")
    write(tmp_path / "deep", "middle.yaml", "base: ../base.yaml\ntrain: {batch: 4}\n")
    top = write(tmp_path / "deep", "top.yaml", "base: middle.yaml\ntrain: {keep: 5}\n")
    config = load_config(top, ["train.keep=6", "train.optimizer={lr: 1e-4}"])
    assert (config.seed, config.model.stages, config.train.steps, config.train.batch) == (1, 5, 3, 4)
    assert (config.train.keep, config.train.optimizer.lr, config.train.optimizer.name) == (6, 1e-4, "adam")
    assert "base" not in config


def test_an_empty_file_and_one_that_names_the_defaults_change_nothing(tmp_path):
    assert load_config(write(tmp_path, "empty.yaml", "# nothing\n")) == load_config()
    assert load_config(write(tmp_path, "same.yaml", f"base: {DEFAULT}\n")) == load_config(DEFAULT) == load_config()


def test_loading_twice_shares_nothing():
    first = load_config(None, ["model.encoder.widths=[1, 2, 3]"])
    first.model.encoder.widths.append(4)
    first.train.optimizer.betas.append(4)
    assert load_config().train.optimizer.betas == [0.0, 0.99]


def test_cycle_of_bases(tmp_path):
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    path = write(tmp_path, "b.yaml", "base: a.yaml\n")
    assert "cycle" in message(path=path) and "a.yaml" in message(path=path)


def test_missing_base_and_wrong_base(tmp_path):
    assert "gone.yaml: No such file" in message(path=write(tmp_path, "a.yaml", "base: gone.yaml\n"))
    assert "base: 3 given" in message(path=write(tmp_path, "b.yaml", "base: 3\n"))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.lr=1", ["unknown key 'train.lr'", "'train.optimizer.lr'"]),
        ("trian.batch=1", ["unknown key 'trian'", "'train'"]),
        ("losses.inverter.lpip=1", ["'losses.inverter.lpips'"]),
        ("model.stages.deep=1", ["model.stages", "{'deep': 1} given", "from 3 to 8"]),
        ("model.encoder=null", ["model.encoder: null given", "a section with convolution"]),
        ("model.stages=9", ["model.stages: 9 given", "a whole number from 3 to 8"]),
        ("model.stages=4.0", ["4.0 given"]),
        ("train.batch=true", ["True given"]),
        ("train.batch=null", ["null given"]),
        ("train.batch='8'", ["'8' given"]),
        ("train.stage=invertor", ["generator | inverter", "did you mean 'inverter'"]),
        ("train.optimizer.lr=.nan", ["nan given"]),
        ("train.optimizer.lr=0", ["0 < x"]),
        ("train.optimizer.lr=fast", ["'fast' given"]),
        ("train.optimizer.betas=[0.5]", ["a list of 2 items"]),
        ("train.optimizer.betas=[0.5, 1]", ["x < 1"]),
        ("model.encoder.widths=[1, 2]", ["a list of 3 to 8 items"]),
        ("model.encoder.widths=[1, 2, x]", ["[1, 2, 'x'] given"]),
        ("infer.block=0", ["auto | whole | a whole number of pixels"]),
        ("infer.block=half", ["'half' given"]),
        ("infer.device=tpu", ["auto | cpu | cuda | cuda:N"]),
        ("data.flip=1", ["true or false"]),
        ("fuse.styles=[]", ["a list of 1 to 256 items"]),
        ("fuse.styles=3", ["fuse.styles: 3 given", "a list of 1 to 256 items"]),
        ("fuse.styles=[-1]", ["a seed (a whole number from 0 to", "or own"]),
        ("fuse.styles=[1.5]", ["[1.5] given"]),
        ("fuse.styles=[true]", ["[True] given"]),
        ("fuse.styles=[' ']", ["the path of an image or latent file"]),
        ("fuse.stiles=[1]", ["the nearest valid key is 'fuse.styles'"]),
        ("fuse.centres=[[0, 0.5, 1]]", ["null | a list of 1 to 256 items", "a list of 2 items"]),
        ("fuse.centres=[[0, 1.5]]", ["a number x with 0 <= x <= 1"]),
        ("fuse.modulation=exactly", ["exact | fast", "did you mean 'exact'"]),
        ("complete.fidelity=-1", ["complete.fidelity"]),
        ("complete.band=0", ["from 1 to 64"]),
        ("outpaint.top=-8", ["outpaint.top: -8 given"]),
        ("resample.what=structures", ["structure | noise", "did you mean 'structure'"]),
        ("resample.region=[0, 0, 5]", ["null | first row", "four whole numbers from 0"]),
        ("resample.region=[0, 0, 5, -5]", ["four whole numbers from 0"]),
        ("data.train=''", ["a path"]),
        ("data.train=", ["'' given", "null | a path"]),
        ("seed=-1", ["seed: -1 given"]),
        ("seed={a: 1, a: 2}", ["'a' is given twice"]),
        ("seed=[", ["seed: line 1"]),
        ("seed", ["allowed: key=value"]),
        ("=3", ["allowed: key=value"]),
        ("base=x.yaml", ["unknown key 'base'"]),
        ("seed=2024-13-45", ["seed"]),
        ("seed=" + "9" * 5000, ["seed"]),
    ],
)
def test_wrong_override(override, parts):
    text = message(override)
    assert text.startswith(COMMAND_LINE) and len(text) < 400
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed: 1\nseed: 2\n", "line 2: key 'seed' is given twice"),
        ("train:\n  batch: 1\n  steps: 2\n  batch: 3\n", "line 4: key 'batch' is given twice"),
        ("train: [\n", "line 2"),
        ("seed: !!python/object/apply:os.system [echo]\n", "line 1"),
        ("- 1\n", "a section with seed, model"),
        ("train:\n", "train: null given"),
        ("1: 2\n", "unknown key '1'"),
        ("seed: &a [*a]\n", "seed"),
        ("[" * 5000, "not valid YAML"),
        ("seed: \x07\n", "not valid YAML"),
    ],
)
def test_wrong_file_is_named(tmp_path, text, part):
    path = write(tmp_path, "wrong.yaml", text)
    assert str(path) in message(path=path) and part in message(path=path)


def test_unreadable_files(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"seed: \xff\n")
    assert "not UTF-8" in message(path=binary)
    assert "Is a directory" in message(path=tmp_path)
    assert "No such file" in message(path=tmp_path / "none.yaml")


@pytest.mark.parametrize("path", ["2024", "[a", "a: b", "r/with #hash", "&a b", "!x y", "*", "'a' #'", " a ", "it's"])
def test_a_path_on_the_command_line_needs_no_quotes(path):
    assert load_config(None, [f"data.train={path}"]).data.train == path


@pytest.mark.parametrize(("raw", "value"), [("null", None), ("'null'", "null"), ('"a #b"', "a #b"), ("\"'x'\"", "'x'")])
def test_null_and_quotes_keep_their_meaning_for_a_path(raw, value):
    assert load_config(None, ["data.train=before", f"data.train={raw}"]).data.train == value


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    path = write(tmp_path, "a.yaml", "data: {train: ~/photos}\n")
    overrides = ["train.output=~/x", "data.val=~", "train.generator=a/~/b", "train.encoders=~nobody-here/x"]
    config = load_config(path, overrides)
    assert (config.data.train, config.train.output) == ("/home/someone/photos", "/home/someone/x")
    assert (config.data.val, config.train.generator) == ("/home/someone", "a/~/b")
    assert config.train.encoders == "~nobody-here/x"


def test_sections_that_are_not_read_may_not_be_set(tmp_path):
    based = write(tmp_path, "based.yaml", f"base: {DEFAULT}\ninfer: {{block: 64}}\n")
    config = load_config(based, ["infer.seed=7"], sections=("infer",))
    assert (config.infer.block, config.infer.seed, config.train.batch) == (64, 7, load_config().train.batch)
    above = write(tmp_path, "above.yaml", "base: wrong.yaml\n")
    wrong = write(tmp_path, "wrong.yaml", "infer: {block: 64}\nmodel: {stages: 3}\n")
    for path, overrides, said in [
        (None, ["model.stages=3"], "command line: 'model' is not read here; allowed: infer"),
        (None, ["seed=3"], "command line: 'seed' is not read here; allowed: infer"),
        (above, [], f"{wrong}: 'model' is not read here; allowed: infer"),
    ]:
        with pytest.raises(UserError) as error:
            load_config(path, overrides, sections=("infer",))
        assert str(error.value) == said
    with pytest.raises(UserError, match="the nearest valid key is 'infer.block'"):
        load_config(None, ["block=3"], sections=("infer",))


def test_values_with_several_types():
    config = load_config(None, ["infer.block=64", "train.minutes=2", "train.optimizer.lr=2E-4", "infer.noise=none"])
    assert (config.infer.block, config.train.minutes, config.train.optimizer.lr) == (64, 2.0, 2e-4)
    assert config.infer.noise == "none" and load_config(None, ["infer.block=whole"]).infer.block == "whole"


def test_styles_are_seeds_or_files():
    config = load_config(None, ["fuse.styles=[own, 3, a/b.png, '7']", "fuse.centres=[[0, 1]]", "fuse.mask=a: b.png"])
    assert config.fuse.styles == ["own", 3, "a/b.png", "7"]
    assert config.fuse.centres == [[0.0, 1.0]] and config.fuse.mask == "a: b.png"
    assert load_config(None, ["fuse.mask=null"]).fuse.mask is None


def test_styles_may_start_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_config(None, ["fuse.styles=[~/a.png]"]).fuse.styles == ["/home/someone/a.png"]


def test_dump_reads_back_the_same(tmp_path):
    config = load_config(None, ["train.optimizer.lr=1e-5", "data.train='null'", "model.encoder.widths=[1, 2, 3]"])
    path = tmp_path / "run" / "config.yaml"
    save_config(config, path)
    assert load_config(path) == config and path.read_text() == dump_config(config)
    assert "widths: [1, 2, 3]" in path.read_text()
    assert list(path.parent.iterdir()) == [path]


@settings(max_examples=50, deadline=None)
@given(
    st.floats(1e-300, 1e3), st.integers(0, 2**32 - 1), st.text(min_size=1).filter(lambda t: t.strip() and "\0" not in t)
)
def test_any_value_survives_the_dump(rate, seed, text):
    config = load_config(None, [f"seed={seed}", f"train.optimizer.lr={rate!r}"])
    config.data.train = text
    assert yaml.safe_load(dump_config(config)) == config


ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(flat_keys(SCHEMA)), ANYTHING)
def test_any_value_is_accepted_in_its_type_or_refused_in_one_line(key, value):
    section, _, name = key.rpartition(".")
    if not section:
        return
    values = {**value_at(load_config(), section), name: value}
    try:
        again = validate_section(section, values, "here")
    except UserError as error:
        assert str(error).startswith(f"here: {key}: ") and len(str(error)) < 400
    else:
        assert validate_section(section, again, "here") == again


def test_section_from_elsewhere():
    model = load_config().model
    assert validate_section("model", dict(model), "w.safetensors") == model
    assert validate_section("train.optimizer", load_config().train.optimizer, "x").name == "adam"
    with pytest.raises(UserError, match="w.safetensors: key model.stages is missing"):
        validate_section("model", {name: model[name] for name in model if name != "stages"}, "w.safetensors")
    with pytest.raises(UserError, match="w.safetensors: model.stages: '4' given"):
        validate_section("model", {**model, "stages": "4"}, "w.safetensors")
    with pytest.raises(KeyError):
        validate_section("seed", {}, "x")


def test_kinds_say_what_they_allow():
    assert ListOf(Integer(1, 3), 2, 2).allowed == "a list of 2 items, each a whole number from 1 to 3"


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (1, 1), (UserError("a\nb"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes(outcome, code, capsys):
    def main(argv):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert run_command(main, []) == code
    assert capsys.readouterr().err == {2: "error: a b\n", 130: "interrupted\n"}.get(code, "")
