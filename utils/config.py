"""Configs: the defaults of utils/schema.py, a file's base chain, the file, and `key=value`, each checked alone.

Each layer is held against the command that reads it before it is merged, so an error names the file that is wrong.
Relative paths stay as given: they are relative to the working directory. `base` is relative to its file.

    python -m utils.config      # writes configs/default.yaml and configs/schema.json, after a change of utils/schema.py
"""

import difflib
import json
import os
import re
import reprlib
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache, reduce
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict
from pydantic import ValidationError

from utils.errors import UserError
from utils.files import ZARR, atomic_path, read_file
from utils.schema import MANY, PROGRAMS, Config, File, Section

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DEFAULT = CONFIGS / "default.yaml"
COMMAND_LINE = "command line"
LARGEST = 2**18  # bytes of a YAML file
MOST_VALUES = 2**16  # of YAML, with all that its aliases stand for
WIDTH, COLUMN = 120, 31  # of lines, and where the comments of configs/default.yaml begin
BASE = {"type": "string", "description": "another config to start from, relative to this file"}


def load_config(command: type[Section], path: str | Path | None = None, overrides: Iterable[str] = ()) -> EasyDict:
    """The complete config of a command: defaults <- base chain <- file <- overrides such as `train.batch=8`.

    command: what it reads, such as TrainConfig. path: a YAML file, None for the defaults. An override may leave out the
    sections of a key that no other section has, or that the command's own section has.
    Raises UserError naming file, key, value and what is allowed.
    """
    values = _checked(command, command().model_dump(), "defaults")
    for file, layer in _layers(Path(path)) if path is not None else []:
        values |= _checked(command, layer, str(file))
    for text in overrides:
        where = f"{COMMAND_LINE} (a file is given as ./{text})" if os.path.exists(text) else COMMAND_LINE
        values |= _checked(command, _parse_override(command, text), where)
    return _nested(values)


def complete_config(command: type[Section], values: Any, where: str) -> EasyDict:
    """The complete config of a command, by its defaults and by values that stand elsewhere (`where`, in errors)."""
    return _nested(_checked(command, command().model_dump(), "defaults") | _checked(command, values, where))


def files_read(command: type[Section], config: dict, path: str | Path | None) -> list[Path]:
    """The files that a command reads by its config: the YAML file, those that it rests on, and those that keys name.

    Folders of images, and what is to be written, do not count.
    """
    found = [file for file, _ in _layers(Path(path))] if path is not None else []
    for key, section in keys_of(command).items():
        value, name = reduce(EasyDict.get, key.split("."), config), key.rpartition(".")[2]
        if (section.model_fields[name].annotation == File and name != "output") or isinstance(value, list):
            named = [Path(each) for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
            found += [each for each in named if os.path.isfile(each) or each.suffix == ZARR]
    return found


def validate_section(name: str, values: dict, where: str) -> EasyDict:
    """Check a complete section, such as "model" or "train.optimizer", that comes from elsewhere.

    where: what an error names as the origin, such as the path of a weights file.
    """
    result = _checked(Config, {name: values}, where)
    missing = [key for key in keys_of(Config) if key.startswith(f"{name}.") and key not in result]
    if missing:
        raise UserError(f"{where}: key {missing[0]} is missing ({len(missing)} missing in all)")
    return reduce(EasyDict.get, name.split("."), _nested(result))


def dump_config(config: dict) -> str:
    """The config as YAML, in its own order, lists on one line; `load_config` reads it back unchanged."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)


def save_config(config: dict, path: str | Path) -> None:
    """Write the config as YAML, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")


@cache
def keys_of(section: type[Section], prefix: str = "") -> dict[str, type[Section]]:
    """Every key of a command or section that holds a value, in full (`model.encoder.widths`): the section it is in."""
    keys = {}
    for name, field in section.model_fields.items():
        is_section = isinstance(field.default, Section)
        keys |= keys_of(field.annotation, f"{prefix}{name}.") if is_section else {prefix + name: section}
    return keys


def schema_of(section: type[Section], name: str) -> dict:
    """The JSON schema of the value of a section's key."""
    schema, given = section.model_json_schema()["properties"][name], name.replace("_", " ").title()
    return {word: value for word, value in schema.items() if (word, value) != ("title", given)}


def allowed(schema: dict) -> str:
    """What a value with this JSON schema may be, in words."""
    match schema:
        case {"title": words}:
            return words
        case {"anyOf": kinds}:
            return " | ".join(sorted(map(allowed, kinds), key="null".__ne__))  # null first
        case {"enum": words}:
            return " | ".join(map(str, words))
        case {"const": word}:
            return word
        case {"type": "integer", "minimum": low, "maximum": high}:
            return f"a whole number from {low} {f'to {high}' if high < MANY else 'on'}"
        case {"type": "number"}:
            low = f"{schema['minimum']:g} <=" if "minimum" in schema else f"{schema['exclusiveMinimum']:g} <"
            high = f"<= {schema['maximum']:g}" if "maximum" in schema else f"< {schema['exclusiveMaximum']:g}"
            return f"a number x with {low} x {high}"
        case {"type": "array", "items": item, "maxItems": high}:
            low = schema.get("minItems", 0)
            return f"a list of {low if low == high else f'{low} to {high}'} items, each {allowed(item)}"
    return {"boolean": "true | false", "null": "null"}[schema["type"]]


def generated_files() -> dict[Path, str]:
    """configs/default.yaml, below the comment at its head, and configs/schema.json, as utils/schema.py has them."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema()
    schema["properties"] = {"base": BASE} | schema["properties"]
    for section in (schema, *schema["$defs"].values()):
        section["patternProperties"] = {r"^\w+(\.\w+)+$": {}}  # keys with their sections: infer.block
    head = DEFAULT.read_text(encoding="utf-8").partition("\n\n")[0]
    return {
        DEFAULT: "\n".join([head, "", *_documented(Config), ""]),
        CONFIGS / "schema.json": json.dumps(schema, indent=1) + "\n",
    }


def _documented(section: type[Section], indent: str = "") -> Iterator[str]:
    """The lines of a section's defaults, each key with its meaning."""
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            yield from [] if indent else [""]
            yield _commented(f"{indent}{name}:", field.annotation.__doc__.rstrip("."))
            yield from _documented(field.annotation, indent + "  ")
        else:
            schema = schema_of(section, name)
            choices = f"{allowed(schema)}; " if _words(schema) else ""
            yield _commented(indent + dump_config({name: field.default}).rstrip(), choices + field.description)


def _commented(line: str, comment: str) -> str:
    column = max(COLUMN, len(line) + 3)
    begin, others = f"{line:<{column}}# ", f"{'':<{column}}# "
    return textwrap.fill(comment, WIDTH, initial_indent=begin, subsequent_indent=others, break_on_hyphens=False)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and few lines that stand for very many values."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and (count := _written_out(node, {})) > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, f"{count} values; allowed: at most {MOST_VALUES}", None)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return node


def _written_out(node: yaml.Node, counted: dict[int, float]) -> float:
    """The values of a node with all that its aliases stand for; what contains itself counts as none."""
    if id(node) not in counted:
        counted[id(node)] = 0
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inside = [each for pair in inside for each in pair]
        counted[id(node)] = 1 + sum(_written_out(each, counted) for each in inside)
    return counted[id(node)]


class _Dumper(yaml.SafeDumper):
    """SafeDumper with lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)
_Dumper.add_multi_representer(dict, _Dumper.represent_dict)
for _side in (_Loader, _Dumper):  # YAML 1.1 takes 1e-4, which has no point, for text
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def _parse_yaml(text: str | bytes, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise UserError(f"{where}:{line} {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def _layers(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, Any]]:
    """The file and the files that it rests on, deepest base first, without the defaults."""
    true = Path(os.path.realpath(path))
    if true == DEFAULT:
        return []
    above = (*above, true)
    if true in above[:-1]:
        raise UserError(f"config {path}: base files form a cycle: {' -> '.join(map(str, above))}")
    try:
        values = _parse_yaml(read_file(path, LARGEST), str(path)) or {}
    except OSError as error:
        raise UserError(f"config {path}: {error.strerror or error}") from error
    base = values.pop("base", None) if isinstance(values, dict) else None
    if not isinstance(base, str | None):
        raise UserError(f"{path}: base: {_short(base)} given; allowed: the path of a config, relative to this file")
    return [*(_layers(path.parent / base, above) if base else []), (path, values)]


def _parse_override(command: type[Section], text: str) -> dict:
    """`a.b=YAML` as {"a.b": value}; a path is taken as it stands, but for null."""
    key, equals, raw = text.partition("=")
    key = _in_full(command, key.strip())
    if not equals or not key:
        raise UserError(f"{COMMAND_LINE}: {text!r} given; allowed: key=value, such as infer.block=256 (files: --input)")
    section = keys_of(command).get(key)
    if section and section.model_fields[key.rpartition(".")[2]].annotation == File:
        return {key: None if raw == "null" else raw}
    return {key: _parse_yaml(raw, f"{COMMAND_LINE}: {key}")}


def _in_full(command: type[Section], key: str) -> str:
    """A key with the sections that were left out; a key that is complete or unknown, as it is."""
    ends = [each for each in keys_of(command) if each.endswith(f".{key}")]
    ends = [each for each in ends if each.startswith(f"{command.own}.")] or ends
    named_as_its_section = ends == [f"{key}.{key}"]
    if not ends or key in keys_of(command) or (_names(command, f"{key}.") and not named_as_its_section):
        return key
    if len(ends) > 1:
        raise UserError(f"{COMMAND_LINE}: {key!r} is a key of several sections; allowed: {' | '.join(ends)}")
    return ends[0]


def _names(command: type[Section], prefix: str) -> list[str]:
    """The keys and sections inside a section, such as "train."; none where there is no such section."""
    inside = (key.removeprefix(prefix) for key in keys_of(command) if key.startswith(prefix))
    return list(dict.fromkeys(key.partition(".")[0] for key in inside))


def _checked(command: type[Section], values: Any, where: str, prefix: str = "") -> dict:
    """{full key: value in its final type}; keys may be missing, but none may be unknown, wrong or given twice."""
    if not isinstance(values, dict):
        place = f"{where}: {prefix[:-1]}: " if prefix else f"{where}: "
        names = ", ".join(_names(command, prefix))
        raise UserError(f"{place}{_short(values)} given; allowed: a section with {names}")
    result = {}
    for name, value in values.items():
        first, dot, rest = str(name).partition(".")
        key, value = prefix + first, {rest: value} if dot else value
        if key in keys_of(command):
            found = {key: _parse(keys_of(command)[key], key, value, where)}
        elif _names(command, f"{key}."):
            found = _checked(command, value, where, f"{key}.")
        elif key in keys_of(Config) or _names(Config, f"{key}."):
            names = ", ".join(_names(command, prefix))
            raise UserError(f"{where}: {key!r} is not read here; allowed: {names} ({key} is {_elsewhere(key)})")
        else:
            section = isinstance(value, dict) and not dot
            raise UserError(f"{where}: unknown key {_near(command, f'{prefix}{name}', section)}")
        if twice := result.keys() & found.keys():
            raise UserError(f"{where}: key {min(twice)!r} is given twice")
        result |= found
    return result


def _parse(section: type[Section], key: str, value: Any, where: str) -> Any:
    name = key.rpartition(".")[2]
    try:
        return getattr(section.model_validate({name: value}), name)
    except ValidationError:
        schema = schema_of(section, name)
        near = difflib.get_close_matches(value, _words(schema), n=1) if isinstance(value, str) else []
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"{where}: {key}: {_short(value)} given; allowed: {allowed(schema)}{hint}") from None


def _words(schema: dict) -> list[str]:
    """The words that are values in themselves."""
    kinds = schema.get("anyOf", [schema])
    return [str(word) for kind in kinds for word in kind.get("enum", [kind["const"]] if "const" in kind else [])]


def _near(command: type[Section], key: str, section: bool) -> str:
    """A key that the command does not know, and the valid one, or section, that was most likely meant."""
    given = key[-80:].lower()

    def likeness(valid: str) -> float:
        pairs = (given, valid), (given.rpartition(".")[2], valid.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    sections = dict.fromkeys(each.rpartition(".")[0] for each in keys_of(command) if section and "." in each)
    others = [each for each in keys_of(Config) if each.endswith(f".{key}") and each not in keys_of(command)]
    hint = f" ({', '.join(f'{each} is {_elsewhere(each)}' for each in others[:3])})" if others else ""
    return f"{_short(key)}; the nearest valid key is {max([*keys_of(command), *sections], key=likeness)!r}{hint}"


def _elsewhere(key: str) -> str:
    """What reads a key or section of Config."""
    readers = [name for name, each in PROGRAMS.items() if key in keys_of(each) or _names(each, f"{key}.")]
    owner = [name for name in readers if PROGRAMS[name].own == key.partition(".")[0]]
    return f"for {' | '.join(owner or readers)}"


def _nested(values: dict) -> EasyDict:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    result = {}
    for key, value in values.items():
        *parents, name = key.split(".")
        reduce(lambda section, parent: section.setdefault(parent, {}), parents, result)[name] = value
    return EasyDict(result)


def _short(value: Any) -> str:
    """A value as an error shows it: never long, however large or self-referring it is."""
    shorten = reprlib.Repr()
    shorten.maxlevel, shorten.maxstring, shorten.maxother = 2, 80, 80
    return shorten.repr(value) if value is not None else "null"


if __name__ == "__main__":
    for path, text in generated_files().items():
        path.write_text(text, encoding="utf-8", newline="\n")
