"""Every config of the repository loads, fits together, and shows a command that works."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import torch

from models import build_discriminator, build_encoders, build_generator, patch_pixels
from models.geometry import Interval
from tests.test_style import PRODUCT, ROOT, nodes
from utils import schema
from utils.config import CONFIGS as FOLDER
from utils.config import DEFAULT, keys_of, load_config
from utils.schema import Config, TrainConfig

CONFIGS = sorted(FOLDER.rglob("*.yaml"))
SCHEMA = FOLDER / "schema.json"
TRAININGS = [path for path in CONFIGS if path.parent.name != "edit"]


def name(path):
    return str(path.relative_to(ROOT))


@cache
def networks(path):
    """Generator, patch encoder and patch of a config, without memory for the weights."""
    config = load_config(TrainConfig, path)
    with torch.device("meta"):
        generator = build_generator(config.model)
        encoder, _ = build_encoders(config.model)
        pixels = patch_pixels(generator, config.train.patch_cells)
        build_discriminator(config.model, pixels.size)
    return config, encoder, pixels


@pytest.mark.parametrize("path", TRAININGS, ids=name)
def test_its_networks_can_be_built(path):
    config, encoder, pixels = networks(path)
    inner = encoder.rule.valid_output(pixels)
    generates = any(config.losses.inverter[term] for term in ("reciprocal", "global_latent"))
    if config.train.stage == "inverter" and generates:
        assert inner.size >= 3, "cells of the reciprocal loss"
    context = encoder.rule.receptive_field(Interval(0, config.train.patch_cells - 1))
    assert context.first <= pixels.first and pixels.last <= context.last
    assert config.train.batch % 2 == config.train.batch % config.model.discriminator.minibatch_group == 0


def commands_in_head(path):
    """The command lines, as words, that the comment at a config's head shows, with what each reads."""
    head = re.match(r"(#.*\n)+", path.read_text()).group().replace("\n#", "\n").replace("\\\n", " ")
    lines = [shlex.split(line) for line in head.splitlines() if "python " in line and "-m " not in line]
    for _, program, *words in lines:
        verb = words.pop(0) if program == "edit.py" else program.removesuffix(".py")
        yield getattr(schema, f"{verb.title()}Config"), program, words


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_its_head_names_the_schema_for_editors_and_shows_how_to_use_it(path):
    words = "# yaml-language-server: $schema="
    first = path.read_text().splitlines()[0]
    assert first.startswith(words) and (path.parent / first.removeprefix(words)).resolve() == SCHEMA
    commands = list(commands_in_head(path))
    assert commands or path == DEFAULT
    for command, program, words in commands:
        assert (ROOT / program).is_file() and words[:2] == ["--config", name(path)]
        config = load_config(command, path, [word for word in words if "=" in word])
        if command is TrainConfig:
            assert config.data.train and config.train.output
            assert bool(config.train.generator) == (config.train.stage == "inverter" and not config.model.trunk)
            assert bool(config.train.inverter) == (config.train.stage == "structure")
        else:
            assert "--output" in words


@pytest.mark.parametrize(("patch", "stages", "context"), [(101, 4, 206), (197, 5, 414), (389, 6, 830)])
def test_sizes_of_the_published_setting(patch, stages, context):
    for stage in ("generator", "inverter"):
        config, encoder, pixels = networks(ROOT / f"configs/landscape/{stage}-{patch}.yaml")
        assert config.train.stage == stage and config.model.stages == stages and config.train.patch_cells == 11
        assert pixels.size == patch
    assert encoder.rule.receptive_field(Interval(0, 10)).size == context


def test_every_key_is_read():
    sources = (path for path in PRODUCT if path != Path("utils/schema.py"))
    found = (node for path in sources for node in nodes(path, ast.Attribute, ast.arg, ast.keyword, ast.Constant))
    read = {word for node in found for kind in ("attr", "arg", "value") if type(word := getattr(node, kind, 0)) is str}
    assert [key for key in keys_of(Config) if key.rpartition(".")[2] not in read] == []
