"""Configs: defaults, layers, overrides, and what is said about a wrong one."""

import os
import random
import re
from functools import reduce
from pathlib import Path
from unittest import mock

import pytest
import yaml

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
    return reduce(dict.get, key.split("."), config)


def message(*overrides: str, path: Path | None = None, command=Config) -> str:
    with pytest.raises(UserError) as error:
        load_config(command, path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def leaf(key: str) -> dict:
    """The JSON schema of a key's value."""
    return schema_of(keys_of(Config)[key], key.rpartition(".")[2])


def test_files_in_the_repository_are_those_that_the_models_generate():
    for path, text in generated_files().items():
        assert path.read_text(encoding="utf-8") == text, "run: python -m utils.config"


def test_defaults_are_allowed_and_commented():
    assert load_config(Config) == yaml.safe_load(DEFAULT.read_text())
    assert all(leaf(key)["description"] and allowed(leaf(key)) for key in keys_of(Config))
    hidden = {name for key in keys_of(Config) for name in key.split(".")} & set(dir(dict))
    assert not hidden, "methods of dict"


def test_a_command_reads_its_sections_and_no_others():
    defaults = load_config(Config)
    for command in COMMANDS:
        config, keys = load_config(command), keys_of(command)
        assert list(config) == list(command.model_fields) and keys.keys() <= keys_of(Config).keys()
        assert all(value_at(config, key) == value_at(defaults, key) for key in keys)
        unread = next(key for key in keys_of(Config) if "." in key and key not in keys)
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
        (GenerateConfig, "refine=3", "(infer.refine is for infer.py)"),
        (GenerateConfig, "infer.refine=3", "allowed: device, dtype, block, memory_mib, format"),
        (InferConfig, "width=3", "(generate.width is for generate.py, outpaint.width is for edit.py outpaint, "),
        (OutpaintConfig, "fuse.blur=3", "'fuse' is not read here; allowed: outpaint, complete, infer (fuse is "),
        (TrainConfig, "infer.block=3", "(infer is for infer.py | "),
        (InferConfig, "photo.jpg", "'photo.jpg' given; allowed: key=value, such as infer.block=256 (files: --input)"),
    ],
)
def test_a_key_of_another_command_is_said_to_be_one(command, given, said):
    assert said in message(given, command=command)


def test_a_suggestion_is_a_key_that_the_command_reads():
    """Whatever key of any command is misspelt or not."""
    draw = random.Random(0)
    for command in COMMANDS * 5:
        key = draw.choice(list(keys_of(Config)))
        key = key.rpartition(".")[2] if draw.random() < 0.5 else key
        key = key.replace(draw.choice(key.replace(".", "")), draw.choice(["", "x"]))
        try:
            load_config(command, None, [f"{key}=3"])
        except UserError as error:
            if nearest := re.search(r"nearest valid key is '([^']*)'", str(error)):
                assert nearest[1] in keys_of(command)


def test_a_config_of_another_command(tmp_path):
    for text in ("train: {batch: 3}\nmodel: {stages: 3}\n", "train.batch: 3\n"):
        said = message(path=write(tmp_path, "a.yaml", text), command=InferConfig)
        assert said.endswith("a.yaml: 'train' is not read here; allowed: infer (train is for train.py)")


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
        assert config == load_config(TrainConfig)
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
        ("modle={stages: 3}", ["unknown key 'modle'; the nearest valid key is 'model'"]),
        ("model.stages={}", ["model.stages: {} given", "from 3 to 8"]),
        ("model.encoder=null", ["model.encoder: null given", "a section with convolution"]),
        ("model.stages=4.0", ["model.stages: 4.0 given", "a whole number from 3 to 8"]),
        ("train.stage=invertor", ["generator | inverter", "did you mean 'inverter'"]),
        ("train.optimizer.lr=0", ["a number x with 0 < x <= 1000"]),
        ("train.optimizer.betas=[0.5, 1]", ["a list of 2 items", "0 <= x < 1"]),
        ("infer.block=half", ["'half' given; allowed: auto | whole | a whole number from 1 on"]),
        ("infer.device=tpu", ["auto | cpu | cuda | mps | cuda:N"]),
        ("fuse.centres=[[0, 1.5]]", ["null | a list of 1 to 256 items", "a list of 2 items", "0 <= x <= 1"]),
        ("train.batch=true", ["True given", "a whole number from 1 on"]),
        ("train.minutes=.nan", ["nan given", "a number x with 0 < x"]),
        ("fuse.styles=[true]", ["[True] given", "a list of 1 to 256 items, each a seed", "or own"]),
        ("resample.box=5,5,5,8", ["four whole numbers from 0"]),
        ("data.train=", ["'' given", "null | a path"]),
        ("seed={a: 1, a: 2}", ["'a' is given twice"]),
        ("train={batch: 1, optimizer.lr: 1, optimizer: {lr: 2}}", ["key 'train.optimizer.lr' is given twice"]),
        ("base=x.yaml", ["unknown key 'base'"]),
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
        ("seed: !!python/object/apply:os.system [echo]\n", "line 1"),
        ("- 1\n", "a section with seed, model"),
        ("1: 2\n", "unknown key '1'"),
        ("train: &a {optimizer: *a}\n", "unknown key 'train.optimizer.optimizer'"),
        ("[" * 1500, "not valid YAML"),
        ("seed: \x07\n", "not valid YAML"),
        ('data.train: "\\ud800"\n', "data.train"),
    ],
)
def test_wrong_file_is_named(tmp_path, text, part):
    path = write(tmp_path, "wrong.yaml", text)
    assert str(path) in message(path=path) and part in message(path=path)


def test_few_lines_that_stand_for_very_many_values(tmp_path):
    for key in ("<<", "x"):
        lines = [f"a{n}: &a{n} {{{key}: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
        path = write(tmp_path, "a.yaml", "\n".join(["a0: &a0 {x: 1}", *lines]))
        assert re.search(r"a\.yaml: \d+ values; allowed: at most 65536", message(path=path))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("/dev/zero", "is not a file"),
        ("pipe", "is not a file"),
        ("long.yaml", "has 262145 bytes; allowed: at most 262144"),
        ("binary.yaml", "not valid YAML"),
        ("", "Is a directory"),
        ("none.yaml", "No such file"),
    ],
)
def test_files_that_would_never_end(tmp_path, file, words):
    """And others that are of no use."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long.yaml").write_text("#" * 2**18 + "\n")
    (tmp_path / "binary.yaml").write_bytes(b"seed: \xff\n")
    assert words in message(path=tmp_path / file)


def test_a_path_on_the_command_line_needs_no_quotes():
    for path in ("2024", "[a", "a: b", "r/with #hash", "&a b", "!x y", "*", "'a'", " a ", "it's"):
        assert load_config(TrainConfig, None, [f"data.train={path}"]).data.train == path
    assert load_config(TrainConfig, None, ["data.train=a", "data.train=null"]).data.train is None


def test_values_of_several_types_and_paths_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    path = write(tmp_path, "a.yaml", "data: {train: ~/photos}\n")
    overrides = ["data.val=~", "train.generator=a/~/b", "fuse.styles=[~/a.png, own, 3]", "infer.block=64"]
    overrides += ["train.minutes=2", "infer.noise=none", "comparison=true", "infer.region=0,0,8,16"]
    config = load_config(Config, path, overrides)
    assert (config.data.train, config.data.val) == ("/home/someone/photos", "/home/someone")
    assert (config.train.generator, config.fuse.styles) == ("a/~/b", ["/home/someone/a.png", "own", 3])
    assert (config.infer.block, config.train.minutes, config.infer.region) == (64, 2.0, [0, 0, 8, 16])
    assert (config.infer.noise, config.infer.comparison) == ("none", True)


@pytest.mark.parametrize("text", ["null", "1e5", "true", "[1]", "caf\u00e9 \U0001f44d", "- a", "'", '"', "#", "~"])
def test_a_dump_reads_back_the_same(tmp_path, text):
    config, path = load_config(TrainConfig, None, ["lr=2E-4", "model.encoder.widths=[1, 2]"]), tmp_path / "r" / "a.yaml"
    config.data.train = text
    save_config(config, path)
    assert yaml.safe_load(path.read_text()) == config and path.read_text() == dump_config(config)
    assert (load_config(TrainConfig, path) == config) == (text != "~") and config.train.optimizer.lr == 2e-4
    assert "widths: [1, 2]" in path.read_text() and list(path.parent.iterdir()) == [path]


def test_section_from_elsewhere():
    config = load_config(TrainConfig)
    for name in ("model", "train.optimizer"):
        assert validate_section(name, value_at(config, name), "w.safetensors") == value_at(config, name)
    del config.model["stages"]
    with pytest.raises(UserError, match="w.safetensors: key model.stages is missing"):
        validate_section("model", config.model, "w.safetensors")


def test_exit_codes(capsys):
    for outcome, code, said in ((None, 0, ""), (1, 1, ""), (UserError("a\nb"), 2, "error: a b\n")):
        main = mock.Mock(side_effect=[outcome])
        assert (run_command(main, []), capsys.readouterr().err) == (code, said)
