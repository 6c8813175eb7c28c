"""Configs: the defaults of utils/schema.py, a file's base chain, the file, and `key=value`, each checked alone.

Each layer is held against the command that reads it before it is merged, so an error names the file that is wrong.
Relative paths stay as given: they are relative to the working directory. `base` is relative to its file.

    python -m utils.config      # writes configs/default.yaml and configs/schema.json, after a change of utils/schema.py
"""

import difflib
import json
import re
import reprlib
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from utils.errors import UserError
from utils.files import atomic_path
from utils.schema import MANY, Config, File, Section

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DEFAULT = CONFIGS / "default.yaml"
COMMAND_LINE = "command line"
WIDTH, COLUMN = 120, 31  # of lines, and where the comments of configs/default.yaml begin
BASE = {"type": "string", "description": "another config to start from, relative to this file"}
HEAD = """\
# yaml-language-server: $schema=schema.json
# Every key that a config may set, with its default; written by `python -m utils.config`. No command reads this file: to
# change a value, name it in a config of your own, which holds only what it changes:
#   base: sample/generator.yaml   # another config to start from, relative to this file; left out: these defaults
#   train.batch: 8                # the same as train: {batch: 8}
# The command line may change single keys: train.batch=8 model.encoder.widths=[32,64,96]. There, a key that only one
# section has, or a command's own section, needs no prefix: batch=8.

"""


def load_config(command: type[Section], path: str | Path | None = None, overrides: Iterable[str] = ()) -> EasyDict:
    """The complete config of a command: defaults <- base chain <- file <- overrides such as `train.batch=8`.

    command: what it reads, such as TrainConfig. path: a YAML file, None for the defaults. An override may leave out the
    sections of a key that no other section has, or that the command's own section has.
    Raises UserError naming file, key, value and what is allowed.
    """
    values = _flat(command().model_dump())
    for file, layer in _layers(Path(path)) if path is not None else []:
        values |= _checked(command, layer, str(file))
    for text in overrides:
        values |= _checked(command, _parse_override(command, text), COMMAND_LINE)
    return EasyDict(_nested(values))


def validate_section(name: str, values: dict, where: str) -> EasyDict:
    """Check a complete section, such as "model" or "train.optimizer", that comes from elsewhere.

    where: what an error names as the origin, such as the path of a weights file.
    """
    if not _is_section(_find(Config, name)[1]):
        raise KeyError(f"{name} is not a section of the config")
    result = _checked(Config, values, where, f"{name}.")
    missing = [key for key in keys_of(Config) if key.startswith(f"{name}.") and key not in result]
    if missing:
        raise UserError(f"{where}: key {missing[0]} is missing ({len(missing)} missing in all)")
    return EasyDict(_nested({key.removeprefix(f"{name}."): value for key, value in result.items()}))


def dump_config(config: dict) -> str:
    """The config as YAML, in its own order, lists on one line; `load_config` reads it back unchanged."""
    return yaml.dump(_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)


def save_config(config: dict, path: str | Path) -> None:
    """Write the config as YAML, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")


@cache
def keys_of(section: type[Section]) -> tuple[str, ...]:
    """Every key of a command or section that holds a value, in full: `model.encoder.widths`."""
    return tuple(_flat(section().model_dump()))


def schema_of(section: type[Section], name: str) -> dict:
    """The JSON schema of the value of a section's key."""
    return _json_schema(section)["properties"][name]


def allowed(schema: dict) -> str:
    """What a value with this JSON schema may be, in words."""
    match schema:
        case {"title": words}:
            return words
        case {"anyOf": kinds}:
            return " | ".join(sorted(map(allowed, kinds), key="null".__ne__))  # null first
        case {"enum": words}:
            return " | ".join(words)
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
    """configs/default.yaml and configs/schema.json as utils/schema.py has them."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | _json_schema(Config)
    schema["properties"] = {"base": BASE} | schema["properties"]
    for section in (schema, *schema["$defs"].values()):
        section["patternProperties"] = {r"^\w+(\.\w+)+$": {}}  # keys with their sections: infer.block
    return {
        DEFAULT: HEAD + "\n".join([*_documented(Config), ""]),
        CONFIGS / "schema.json": json.dumps(schema, indent=1) + "\n",
    }


def _documented(section: type[Section], indent: str = "") -> Iterator[str]:
    """The lines of a section's defaults, each key with its meaning."""
    for name, field in section.model_fields.items():
        if _is_section(field):
            yield from [] if indent else [""]
            yield from _commented(f"{indent}{name}:", field.annotation.__doc__.rstrip("."))
            yield from _documented(field.annotation, indent + "  ")
        else:
            schema = schema_of(section, name)
            choices = f"{allowed(schema)}; " if _words(schema) else ""
            line = dump_config({name: field.get_default()}).rstrip()
            yield from _commented(indent + line, choices + field.description)


def _commented(line: str, comment: str) -> Iterator[str]:
    column = max(COLUMN, len(line) + 3)
    for part in textwrap.wrap(comment, WIDTH - column - 2, break_on_hyphens=False):
        yield f"{line:<{column}}# {part}"
        line = ""


class _Untitled(GenerateJsonSchema):
    """JSON schemas whose titles are only those that utils/schema.py gives."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """None is made of a key's name."""
        return False


def _json_schema(section: type[Section]) -> dict:
    return section.model_json_schema(schema_generator=_Untitled)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return node


class _Dumper(yaml.SafeDumper):
    """SafeDumper with lists on one line, and line breaks of any kind escaped."""

    def represent_list(self, data: list) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def represent_str(self, data: str) -> yaml.ScalarNode:
        escaped = '"' if data.splitlines() not in ([data], []) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=escaped)


_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(str, _Dumper.represent_str)
for _side in (_Loader, _Dumper):  # YAML 1.1 takes 1e-4, which has no point, for text
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise UserError(f"{where}:{line} {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def _read(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"config {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config {path}: not UTF-8 text (byte {error.start})") from error
    values = _parse_yaml(text, str(path))
    return {} if values is None else values


def _layers(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, Any]]:
    """The file and the files that it rests on, deepest base first, without the defaults."""
    if path.resolve() == DEFAULT:
        return []
    if path.resolve() in above:
        chain = " -> ".join(str(file) for file in (*above, path.resolve()))
        raise UserError(f"config {path}: base files form a cycle: {chain}")
    values = _read(path)
    base = values.pop("base", None) if isinstance(values, dict) else None
    if base is None:
        return [(path, values)]
    if not isinstance(base, str) or not base:
        raise UserError(f"{path}: base: {_short(base)} given; allowed: the path of a config, relative to this file")
    return [*_layers(path.parent / base, (*above, path.resolve())), (path, values)]


def _parse_override(command: type[Section], text: str) -> dict:
    """`a.b=YAML` as {"a.b": value}."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"{COMMAND_LINE}: {text!r} given; allowed: key=value, such as infer.block=256")
    key = _in_full(command, key)
    field = _find(command, key)[1]
    is_path = field is not None and field.annotation == File
    return {key: _parse_path(raw) if is_path else _parse_yaml(raw, f"{COMMAND_LINE}: {key}")}


def _in_full(command: type[Section], key: str) -> str:
    """A key with the sections that were left out; a key that is complete or unknown, as it is."""
    if _find(command, key)[1] is not None:
        return key
    ends = [each for each in keys_of(command) if each.endswith(f".{key}")]
    ends = [each for each in ends if each.startswith(f"{command.own}.")] or ends
    if len(ends) > 1:
        raise UserError(f"{COMMAND_LINE}: {key!r} is a key of several sections; allowed: {' | '.join(ends)}")
    return ends[0] if ends else key


def _parse_path(raw: str) -> str | None:
    """A path as it stands, whatever YAML would make of it: only null and quotes around the whole are special."""
    if raw == "null":
        return None
    quote = raw[:1]
    quoted = quote in ("'", '"') and raw.endswith(quote) and raw.count(quote) == 2
    return raw[1:-1] if quoted else raw


def _find(section: type[Section], key: str) -> tuple[type[Section], FieldInfo | None]:
    """The section that a full key lies in, as far as its parts are known, and its field; None for an unknown key."""
    *parents, name = key.split(".")
    for parent in parents:
        field = section.model_fields.get(parent)
        if not _is_section(field):
            return section, None
        section = field.annotation
    return section, section.model_fields.get(name)


def _is_section(field: FieldInfo | None) -> bool:
    return field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def _checked(command: type[Section], values: Any, where: str, prefix: str = "") -> dict:
    """{full key: value in its final type}; keys may be missing, but none may be unknown, wrong or given twice."""
    if not isinstance(values, dict):
        section = _find(command, prefix[:-1])[1].annotation if prefix else command
        place = f"{where}: {prefix[:-1]}: " if prefix else f"{where}: "
        raise UserError(f"{place}{_short(values)} given; allowed: a section with {', '.join(section.model_fields)}")
    result = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        section, field = _find(command, key)
        if field is None:
            raise UserError(f"{where}: {_unknown(command, key, isinstance(value, dict))}")
        if _is_section(field):
            found = _checked(command, value, where, f"{key}.")
        else:
            found = {key: _parse(section, key, value, where)}
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
    return [word for kind in kinds for word in kind.get("enum", [kind["const"]] if "const" in kind else [])]


def _unknown(command: type[Section], key: str, is_section: bool) -> str:
    """What is wrong with a key that the command does not know, and the valid one that was most likely meant."""
    section = _find(command, key)[0]
    if _find(Config, key)[1] is not None:
        unread = next(name for name in accumulate(key.split("."), "{}.{}".format) if _find(command, name)[1] is None)
        return f"{unread!r} is not read here; allowed: {', '.join(section.model_fields)}"

    def likeness(valid: str) -> float:
        pairs = (key[-80:], valid), (key[-80:].rpartition(".")[2], valid.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    keys = keys_of(command)
    near = max({valid.rpartition(".")[0] for valid in keys} - {""} if is_section else keys, key=likeness)
    return f"unknown key {_short(key)}; the nearest valid key is {near!r}"


def _flat(values: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    result = {}
    for name, value in values.items():
        result |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def _nested(values: dict) -> dict:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    result = {}
    for key, value in values.items():
        *parents, name = key.split(".")
        section = result
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return result


def _short(value: Any) -> str:
    """A value as an error shows it: never long, however large or self-referring it is."""
    shorten = reprlib.Repr()
    shorten.maxlevel, shorten.maxstring, shorten.maxother = 2, 80, 80
    return shorten.repr(value) if value is not None else "null"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    for path, text in generated_files().items():
        path.write_text(text, encoding="utf-8", newline="\n")
