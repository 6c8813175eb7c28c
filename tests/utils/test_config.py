"""Configs: defaults, layers, overrides, and what is said about a wrong one."""

import math
import os
import re
from itertools import islice
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import schema
from utils.config import (
    COMMAND_LINE,
    DEFAULT,
    allowed,
    dump_config,
    files_read,
    generated_files,
    keys_of,
    load_config,
    save_config,
    schema_of,
    validate_section,
)
from utils.errors import UserError, run_command
from utils.schema import Config, EvaluateConfig, FuseConfig, GenerateConfig, InferConfig, OutpaintConfig, TrainConfig

COMMANDS = [kind for name, kind in vars(schema).items() if name.endswith("Config") and kind is not Config]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def value_at(config: dict, key: str):
    for name in key.split("."):
        config = config[name]
    return config


def message(*overrides: str, path: Path | None = None, command=Config) -> str:
    with pytest.raises(UserError) as error:
        load_config(command, path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def leaf(key: str) -> dict:
    """The JSON schema of a key's value."""
    section = Config
    *parents, name = key.split(".")
    for parent in parents:
        section = section.model_fields[parent].annotation
    return schema_of(section, name)


@pytest.mark.parametrize("path", generated_files(), ids=lambda path: path.name)
def test_files_in_the_repository_are_those_that_the_models_generate(path):
    assert path.read_text(encoding="utf-8") == generated_files()[path], "run: python -m utils.config"


def test_defaults_are_allowed_and_commented():
    assert load_config(Config) == yaml.safe_load(DEFAULT.read_text())
    assert validate_section("train", load_config(Config).train, "x") == load_config(Config).train
    assert all(leaf(key)["description"] and allowed(leaf(key)) for key in keys_of(Config))


def test_no_key_hides_a_method_of_dict():
    assert not {name for key in keys_of(Config) for name in key.split(".")} & set(dir(dict))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_command_reads_its_sections_and_no_others(command):
    config = load_config(command)
    assert list(config) == list(command.model_fields) and set(keys_of(command)) <= set(keys_of(Config))
    assert all(value_at(config, key) == value_at(load_config(Config), key) for key in keys_of(command))
    unread = next(key for key in keys_of(Config) if "." in key and key not in keys_of(command))
    assert "' is not read here; allowed: " in message(f"{unread}=1", command=command)
    assert f"is {command.own!r}" in message(f"{command.own}x={{a: 1}}", command=command)


def test_keys_need_no_prefix_where_it_is_clear_what_they_mean(tmp_path):
    assert load_config(GenerateConfig, None, ["width=2048"]).generate.width == 2048
    assert load_config(GenerateConfig, None, ["block=64"]).infer.block == 64
    assert load_config(InferConfig, None, ["refine=1", "infer.refine=2"]).infer.refine == 2
    assert load_config(TrainConfig, None, ["lr=1", "generator=a: b"]).train.generator == "a: b"
    config = load_config(OutpaintConfig, None, ["seed=3", "band=4"])  # outpaint.seed, not infer.seed
    assert (config.outpaint.seed, config.infer.seed, config.complete.band) == (3, 0, 4)
    assert load_config(EvaluateConfig, None, ["seed=3"]).seed == 3
    assert "allowed: generate.seed | infer.seed" in message("seed=3", command=FuseConfig)
    assert "the nearest valid key is 'generate.width'" in message("widht=3", command=GenerateConfig)
    path = write(tmp_path, "bare.yaml", "width: 3\n")  # a file means the same to every command
    assert f"{path}: unknown key 'width'" in message(path=path, command=GenerateConfig)


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        (GenerateConfig, "wdith=3", "the nearest valid key is 'generate.width'"),
        (GenerateConfig, "BLOCK=3", "the nearest valid key is 'infer.block'"),
        (GenerateConfig, "refine=3", "(infer.refine is for infer.py)"),
        (GenerateConfig, "infer.refine=3", "allowed: device, dtype, block, memory_mib, format"),
        (InferConfig, "width=3", "(generate.width is for generate.py, outpaint.width is for edit.py outpaint, "),
        (InferConfig, "batch=3", "(train.batch is for train.py)"),
        (OutpaintConfig, "fuse.blur=3", "'fuse' is not read here; allowed: outpaint, complete, infer (fuse is "),
        (TrainConfig, "infer.block=3", "(infer is for infer.py | "),
        (InferConfig, "photo.jpg", "'photo.jpg' given; allowed: key=value, such as infer.block=256 (files: --input)"),
    ],
)
def test_a_key_of_another_command_is_said_to_be_one(command, given, said):
    assert said in message(given, command=command)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
@given(data=st.data())
@settings(max_examples=30)
def test_a_suggestion_is_a_key_that_the_command_reads(command, data):
    """Whatever key of any command is misspelt or not."""
    key = data.draw(st.sampled_from(sorted(keys_of(Config))))
    key = key.rpartition(".")[2] if data.draw(st.booleans()) else key
    key = key.replace(data.draw(st.sampled_from(sorted(set(key) - {"."}))), data.draw(st.sampled_from(["", "x"])))
    try:
        load_config(command, None, [f"{key}=3"])
    except UserError as error:
        if nearest := re.search(r"nearest valid key is '([^']*)'", str(error)):
            assert nearest[1] in keys_of(command)


def test_a_config_of_another_command(tmp_path):
    for text in ("model: {stages: 3}\ntrain: {batch: 3}\n", "train.batch: 3\n"):
        path = write(tmp_path, "a.yaml", text)
        assert re.search(r"a\.yaml: '(model|train)' is not read here; allowed: infer \(.* is for train\.py\)",
                         message(path=path, command=InferConfig))  # fmt: skip


def test_an_option_that_is_a_file_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "name=1.jpg", "")
    write(tmp_path, "refine=2", "")
    assert "(a file is given as ./name=1.jpg): unknown key 'name'" in message("name=1.jpg", command=InferConfig)
    assert load_config(InferConfig, None, ["refine=2"]).infer.refine == 2


def test_files_that_a_command_reads(tmp_path):
    """Its config, what that rests on, and what keys name; no folders, nothing that is written."""
    for name in ("w.pth", "style.png", "run.pt"):
        write(tmp_path, name, "x")
    (tmp_path / "a.zarr").mkdir()
    write(tmp_path, "base.yaml", f"train.output: {tmp_path}/run.pt\n")
    text = f"base: base.yaml\ndata.train: {tmp_path}\nlosses.weights.alexnet: {tmp_path}/w.pth\n"
    top = write(tmp_path, "top.yaml", text)
    config = load_config(TrainConfig, top)
    assert sorted(path.name for path in files_read(TrainConfig, config, top)) == ["base.yaml", "top.yaml", "w.pth"]
    styles = f"styles=[3,own,{tmp_path}/style.png,{tmp_path}/a.zarr,{tmp_path}/none.png]"
    config = load_config(FuseConfig, None, [styles, f"mask={tmp_path}/w.pth"])
    assert sorted(path.name for path in files_read(FuseConfig, config, None)) == ["a.zarr", "style.png", "w.pth"]


def test_layers_go_from_base_to_file_to_command_line(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path, "base.yaml", "seed: 1\ntrain: {batch: 2, steps: 3}\nmodel: {stages: 5}\n")
    write(tmp_path / "deep", "middle.yaml", "base: ../base.yaml\ntrain.batch: 4\n")
    top = write(tmp_path / "deep", "top.yaml", "base: middle.yaml\ntrain: {keep: 5, optimizer.name: muon}\n")
    config = load_config(TrainConfig, top, ["train.keep=6", "train.optimizer={lr: 1e-4}"])
    assert (config.seed, config.model.stages, config.train.steps, config.train.batch) == (1, 5, 3, 4)
    assert (config.train.keep, config.train.optimizer.lr, config.train.optimizer.name) == (6, 1e-4, "muon")
    assert "base" not in config


def test_an_empty_file_and_one_that_names_the_defaults_change_nothing(tmp_path):
    for text in ("# nothing\n", f"base: {DEFAULT}\n"):
        config = load_config(TrainConfig, write(tmp_path, "a.yaml", text))
        assert config == load_config(TrainConfig, DEFAULT) == load_config(TrainConfig)
        config.train.optimizer.betas.append(4)  # shared with no other config


def test_wrong_bases(tmp_path):
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    text = message(path=write(tmp_path, "b.yaml", "base: a.yaml\n"))
    assert "cycle" in text and "a.yaml" in text
    assert "gone.yaml: No such file" in message(path=write(tmp_path, "c.yaml", "base: gone.yaml\n"))
    assert "base: 3 given" in message(path=write(tmp_path, "d.yaml", "base: 3\n"))
    wrong = write(tmp_path, "wrong.yaml", "infer: {block: 0}\n")
    assert message(path=write(tmp_path, "e.yaml", "base: wrong.yaml\n")).startswith(f"{wrong}: infer.block: 0 given")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.lr=1", ["unknown key 'train.lr'", "'train.optimizer.lr'"]),
        ("trian.batch=1", ["unknown key 'trian.batch'", "'train.batch'"]),
        ("losses.inverter.lpip=1", ["'losses.inverter.lpips'"]),
        ("modle={stages: 3}", ["unknown key 'modle'; the nearest valid key is 'model'"]),
        ("model.stages={}", ["model.stages: {} given", "from 3 to 8"]),
        ("model.encoder=null", ["model.encoder: null given", "a section with convolution"]),
        ("model.stages=4.0", ["model.stages: 4.0 given", "a whole number from 3 to 8"]),
        ("train.batch=true", ["True given", "a whole number from 1 on"]),
        ("train.stage=invertor", ["generator | inverter", "did you mean 'inverter'"]),
        ("train.optimizer.lr=0", ["a number x with 0 < x <= 1000"]),
        ("train.optimizer.betas=[0.5, 1]", ["a list of 2 items", "0 <= x < 1"]),
        ("infer.block=half", ["'half' given; allowed: auto | whole | a whole number from 1 on"]),
        ("infer.device=tpu", ["auto | cpu | cuda | mps | cuda:N"]),
        ("fuse.styles=[true]", ["[True] given", "a list of 1 to 256 items, each a seed", "or own"]),
        ("fuse.centres=[[0, 1.5]]", ["null | a list of 1 to 256 items", "a list of 2 items", "0 <= x <= 1"]),
        ("resample.box=5,5,5,8", ["four whole numbers from 0"]),
        ("data.train=", ["'' given", "null | a path"]),
        ("seed={a: 1, a: 2}", ["'a' is given twice"]),
        ("train={batch: 1, optimizer.lr: 1, optimizer: {lr: 2}}", ["key 'train.optimizer.lr' is given twice"]),
        ("seed", ["allowed: key=value"]),
        ("base=x.yaml", ["unknown key 'base'"]),
        ("seed=2024-13-45", ["seed"]),
        ("seed=" + "9" * 5000, ["seed"]),
        ("a" * 5000 + "=1", ["unknown key"]),
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
        ("seed: !!python/object/apply:os.system [echo]\n", "line 1"),
        ("- 1\n", "a section with seed, model"),
        ("train:\n", "train: null given"),
        ("1: 2\n", "unknown key '1'"),
        ("train: &a {optimizer: *a}\n", "unknown key 'train.optimizer.optimizer'"),
        ("[" * 5000, "not valid YAML"),
        ("seed: \x07\n", "not valid YAML"),
        ('data.train: "\\ud800"\n', "data.train"),
    ],
)
def test_wrong_file_is_named(tmp_path, text, part):
    path = write(tmp_path, "wrong.yaml", text)
    assert str(path) in message(path=path) and part in message(path=path)


def test_few_lines_that_stand_for_very_many_values(tmp_path):
    lines = ["a0: &a0 {x: 1}"]
    for merge in ("<<: [{}]", "x: [{}]"):
        for number in range(1, 12):
            lines.append(f"a{number}: &a{number} {{{merge.format(', '.join([f'*a{number - 1}'] * 10))}}}")
        (tmp_path / "a.yaml").write_text("\n".join(lines))
        with pytest.raises(UserError, match=r"a\.yaml: \d+ values; allowed: at most 65536"):
            load_config(InferConfig, tmp_path / "a.yaml")
        del lines[1:]


@pytest.mark.parametrize("file", ["/dev/zero", "pipe", "long.yaml"])
def test_files_that_would_never_end(tmp_path, file):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long.yaml").write_text("#" * 2**18 + "\n")
    with pytest.raises(UserError, match="^config .*(is not a file|has 262145 bytes; allowed: at most 262144)$"):
        load_config(InferConfig, tmp_path / file)


def test_unreadable_files(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"seed: \xff\n")
    assert "not valid YAML" in message(path=tmp_path / "binary.yaml")
    assert "Is a directory" in message(path=tmp_path)
    assert "No such file" in message(path=tmp_path / "none.yaml")


@pytest.mark.parametrize("path", ["2024", "[a", "a: b", "r/with #hash", "&a b", "!x y", "*", "'a'", " a ", "it's"])
def test_a_path_on_the_command_line_needs_no_quotes(path):
    assert load_config(TrainConfig, None, [f"data.train={path}"]).data.train == path
    assert load_config(TrainConfig, None, [f"data.train={path}", "data.train=null"]).data.train is None


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    path = write(tmp_path, "a.yaml", "data: {train: ~/photos}\n")
    config = load_config(Config, path, ["data.val=~", "train.generator=a/~/b", "fuse.styles=[~/a.png, own, 3]"])
    assert (config.data.train, config.data.val) == ("/home/someone/photos", "/home/someone")
    assert (config.train.generator, config.fuse.styles) == ("a/~/b", ["/home/someone/a.png", "own", 3])


def test_values_with_several_types():
    overrides = ["infer.block=64", "train.minutes=2", "train.optimizer.lr=2E-4", "infer.noise=none", "comparison=true"]
    config = load_config(Config, None, [*overrides, "infer.region=0,0,8,16", "infer.device=cuda:1"])
    assert (config.infer.block, config.train.minutes, config.infer.region) == (64, 2.0, [0, 0, 8, 16])
    assert (config.infer.noise, config.infer.comparison) == ("none", True)


def test_dump_reads_back_the_same(tmp_path):
    overrides = ["train.optimizer.lr=1e-5", "data.train='null'", "data.val=1e5", "model.encoder.widths=[1, 2, 3]"]
    config, path = load_config(TrainConfig, None, overrides), tmp_path / "run" / "config.yaml"
    save_config(config, path)
    assert load_config(TrainConfig, path) == config and path.read_text() == dump_config(config)
    assert "widths: [1, 2, 3]" in path.read_text()
    assert list(path.parent.iterdir()) == [path]


@settings(max_examples=50)
@given(st.floats(1e-300, 1e3), st.text(min_size=1).filter(lambda text: not text.startswith("~") and text != "null"))
def test_any_value_survives_the_dump(rate, text):
    try:
        config = load_config(TrainConfig, None, [f"train.optimizer.lr={rate!r}", f"data.train={text}"])
    except UserError as error:
        assert str(error).endswith("allowed: null | a path (a line of text)")
    else:
        assert yaml.safe_load(dump_config(config)) == config and config.data.train == text


def edges(schema: dict):
    """Values that a JSON schema just allows, each with one that it just refuses."""
    match schema:
        case {"anyOf": kinds}:
            yield from (pair for kind in kinds for pair in edges(kind))
        case {"enum": words}:
            yield from ((words[0], "no such word"), (words[-1], 0.5))
        case {"type": "integer", "minimum": low, "maximum": high}:
            yield from ((low, low - 1), (high, high + 1), (low, float(low)))
        case {"type": "number"}:
            for end, away in (("minimum", -math.inf), ("maximum", math.inf)):
                limit = schema.get(end, schema.get(f"exclusive{end.title()}"))
                near = math.nextafter(limit, away if end in schema else -away)
                yield (limit, near) if end in schema else (near, limit)
                yield from ((limit if end in schema else near, wrong) for wrong in (math.nan, "1", True))
        case {"type": "array", "items": item, "maxItems": high} if "title" not in schema:
            for good, bad in islice(edges(item), 1):
                yield from (([good] * high, [good] * (high + 1)), ([good] * high, [*[good] * (high - 1), bad]))
        case {"type": "boolean"}:
            yield True, 1


@pytest.mark.parametrize("key", [key for key in keys_of(Config) if "." in key])
def test_a_value_is_accepted_in_range_and_refused_outside_in_one_line(key):
    section, _, name = key.rpartition(".")
    values = value_at(load_config(Config), section)
    for good, bad in edges(leaf(key)):
        assert validate_section(section, {**values, name: good}, "here")[name] == good
        with pytest.raises(UserError) as error:
            validate_section(section, {**values, name: bad}, "here")
        text = str(error.value)
        assert text.startswith(f"here: {key}: ") and allowed(leaf(key)) in text and "\n" not in text and len(text) < 400


def test_section_from_elsewhere():
    model = load_config(TrainConfig).model
    assert validate_section("model", dict(model), "w.safetensors") == model
    assert validate_section("train.optimizer", load_config(TrainConfig).train.optimizer, "x").name == "adam"
    with pytest.raises(UserError, match="w.safetensors: key model.stages is missing"):
        validate_section("model", {name: model[name] for name in model if name != "stages"}, "w.safetensors")
    with pytest.raises(UserError, match="w.safetensors: model.stages: '4' given"):
        validate_section("model", {**model, "stages": "4"}, "w.safetensors")


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (1, 1), (UserError("a\nb"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes(outcome, code, capsys):
    def main(argv):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert run_command(main, []) == code
    assert capsys.readouterr().err == {2: "error: a b\n", 130: "interrupted\n"}.get(code, "")
