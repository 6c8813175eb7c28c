"""Every config of the repository loads, fits together, and shows a command that works."""

import ast
import re
import shlex
from functools import cache
from inspect import signature
from pathlib import Path

import pytest
import torch

import losses
from models import build_discriminator, build_encoders, build_generator, patch_pixels
from models.discriminator import Discriminator
from models.encoder import GlobalEncoder, PatchEncoder
from models.geometry import Interval
from models.structure import CoordinateGrid
from models.texture import TextureSynthesizer
from utils.config import load_config
from utils.schema import SCHEMA, flat_keys

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
EDITS = [path for path in CONFIGS if path.parent.name == "edit"]
LAUNCHED = [path for path in CONFIGS if path.name != "default.yaml" and path not in EDITS]
# What a section is called where it is not called by its name.
GIVEN = {
    "datasets/__init__.py": {"config": "data"},
    "evaluate.py": {"options": "evaluate"},
    "evaluation/run.py": {"options": "evaluate"},
    "fuse.py": {"options": "fuse"},
    "generate.py": {"options": "generate"},
    "inbetween.py": {"options": "inbetween"},
    "infer.py": {"options": "infer"},
    "inversion/blocks.py": {"options": "infer"},
    "inversion/editing.py": {"options": "complete"},
    "inversion/outputs.py": {"options": "infer"},
    "inversion/tool.py": {"options": "infer"},
    "outpaint.py": {"options": "outpaint"},
    "resample.py": {"options": "resample"},
    "train.py": {"settings": "train"},
    "training/generator.py": {"settings": "train", "parts": "generator"},
    "training/inverter.py": {"settings": "train"},
    "training/optimization.py": {"settings": "optimizer"},
}
# Who is given all keys of a section as arguments.
ARGUMENTS = {
    "structure": CoordinateGrid,
    "texture": TextureSynthesizer,
    "discriminator": Discriminator,
    "encoder": PatchEncoder,
    "global_encoder": GlobalEncoder,
}
SOURCES = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ("tests", ".venv")]


def name(path):
    return str(path.relative_to(ROOT))


@cache
def networks(path):
    """Generator, patch encoder and patch of a config, without memory for the weights."""
    config = load_config(path)
    with torch.device("meta"):
        generator = build_generator(config.model)
        encoder, _ = build_encoders(config.model)
        pixels = patch_pixels(generator, config.train.patch_cells)
        build_discriminator(config.model, pixels.size)
    return config, encoder, pixels


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_its_networks_can_be_built(path):
    config, encoder, pixels = networks(path)
    inner = encoder.rule.valid_output(pixels)
    generates = any(config.losses.inverter[term] for term in ("reciprocal", "global_latent"))
    if config.train.stage == "inverter" and generates:
        assert inner.size >= 3, "cells of the reciprocal loss"
    context = encoder.rule.receptive_field(Interval(0, config.train.patch_cells - 1))
    assert context.first <= pixels.first and pixels.last <= context.last
    assert config.train.batch % 2 == config.train.batch % config.model.discriminator.minibatch_group == 0


def commands_in_head(path, program):
    """The commands, as words, that the comment at a config's head shows."""
    head = re.match(r"(#.*\n)+", path.read_text()).group().replace("\n#", "\n").replace("\\\n", " ")
    commands = [shlex.split(line) for line in head.splitlines() if program in line]
    assert commands
    return commands


@pytest.mark.parametrize("path", EDITS, ids=name)
def test_the_head_of_an_edit_shows_how_to_run_it(path):
    for command in commands_in_head(path, "python "):
        assert (ROOT / command[1]).is_file()
        assert command[2:4] == ["--config", name(path)] and "--output" in command
        load_config(path, [word for word in command if "=" in word])


@pytest.mark.parametrize("path", LAUNCHED, ids=name)
def test_its_head_shows_how_to_launch_it(path):
    for command in commands_in_head(path, "train.py"):
        arguments = command[command.index("train.py") + 1 :]
        assert arguments[:2] == ["--config", name(path)]
        config = load_config(path, arguments[2:])
        assert config.data.train and config.train.output
        assert bool(config.train.generator) == (config.train.stage == "inverter")


@pytest.mark.parametrize(("patch", "stages", "context"), [(101, 4, 206), (197, 5, 414), (389, 6, 830)])
def test_sizes_of_the_published_setting(patch, stages, context):
    for stage in ("generator", "inverter"):
        config, encoder, pixels = networks(ROOT / f"configs/landscape/{stage}-{patch}.yaml")
        assert config.train.stage == stage and config.model.stages == stages and config.train.patch_cells == 11
        assert pixels.size == patch
    assert encoder.rule.receptive_field(Interval(0, 10)).size == context


def test_valid_convolutions_leave_the_reciprocal_loss_fewer_cells():
    figures = []
    for path in (ROOT / "configs/ablation/shifted.yaml", ROOT / "configs/ablation/valid.yaml"):
        _, encoder, pixels = networks(path)
        figures.append((encoder.rule.receptive_field(Interval(0, 0)).size, pixels.size, encoder.rule.valid_output(pixels).size))
    assert figures == [(22, 85, 8), (43, 85, 5)]


def name_of(node):
    """The last name of an expression: `train` of `config.train` and of `config["train"]`."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return node.slice.value
    return getattr(node, "attr", None) or getattr(node, "id", None)


def read_in(path):
    """Every (section, key) that a file reads as `section.key`, `section["key"]` or `section.pop("key")`.

    Also the keys of a dict that GIVEN names: its values are multiplied by those of the section.
    """
    sections = GIVEN.get(name(path), {})
    for node in ast.walk(ast.parse(path.read_text())):
        owner, keys = getattr(node, "value", None), [name_of(node)]
        if isinstance(node, ast.Call) and name_of(node.func) == "pop" and node.args:
            owner, keys = node.func.value, [getattr(node.args[0], "value", None)]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            owner, keys = node.targets[0], [getattr(key, "value", None) for key in node.value.keys]
        yield from ((sections.get(name_of(owner), name_of(owner)), key) for key in keys)


def taken_whole():
    """Every (section, key) of the sections that the code takes as they are, for arguments or entries of these names."""
    for section, function in ARGUMENTS.items():
        yield from ((section, parameter) for parameter in signature(function).parameters)
    yield from (("inverter", term) for term in losses.TERMS)
    yield from (("weights", weight) for term in losses.TERMS.values() for weight in getattr(term, "pretrained", ()))


def test_every_key_is_read():
    read = {pair for path in SOURCES for pair in read_in(path)} | set(taken_whole())
    keys = [("config", *key.split(".")) for key in flat_keys(SCHEMA)]
    assert [".".join(key) for key in keys if key[-2:] not in read] == []
    assert ("train", "no_such_key") not in read and ("model", "batch") not in read
