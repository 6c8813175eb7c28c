"""Configs: configs/default.yaml, then the file's base chain, the file, and `key=value` overrides, each checked alone.

Each layer is held against utils/schema.py before it is merged, so an error names the file that is wrong.
Relative paths stay as given: they are relative to the working directory. `base` is relative to its file.
"""

import copy
import difflib
import reprlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict

from utils.errors import UserError
from utils.files import atomic_path
from utils.schema import SCHEMA, FilePath, Optional, flat_keys, flat_sections

DEFAULT = Path(__file__).resolve().parent.parent / "configs" / "default.yaml"
COMMAND_LINE = "command line"


def load_config(
    path: str | Path | None = None, overrides: Iterable[str] = (), sections: Collection[str] = SCHEMA
) -> EasyDict:
    """The complete config of a run: defaults <- base chain <- file <- overrides such as `train.batch=8`.

    path: a YAML file, None for the defaults. sections: first names of the keys that may be set, such as ("infer",).
    Raises UserError naming file, key, value and what is allowed.
    """
    layers = [(str(file), values) for file, values in _layers(Path(path))] if path is not None else []
    layers += [(COMMAND_LINE, _parse_override(text)) for text in overrides]
    config = _complete(SCHEMA, _read(DEFAULT), "", str(DEFAULT))
    for where, values in layers:
        checked = _checked(SCHEMA, values, "", where)
        if unread := [name for name in checked if name not in sections]:
            raise UserError(f"{where}: {unread[0]!r} is not read here; allowed: {', '.join(sections)}")
        _merge(config, checked)
    return EasyDict(config)


def validate_section(name: str, values: dict, where: str) -> EasyDict:
    """Check a complete section, such as "model" or "train.optimizer", that comes from elsewhere.

    where: what an error names as the origin, such as the path of a weights file.
    """
    schema = _kind_of(name)
    if not isinstance(schema, dict):
        raise KeyError(f"{name} is not a section of the config")
    return EasyDict(_complete(schema, values, f"{name}.", where))


def dump_config(config: dict) -> str:
    """The config as YAML, in its own order, lists on one line; `load_config` reads it back unchanged."""
    return yaml.dump(_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def save_config(config: dict, path: str | Path) -> None:
    """Write the config as YAML, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")


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


def _parse_override(text: str) -> dict:
    """`a.b=YAML` as {"a": {"b": value}}."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"{COMMAND_LINE}: {text!r} given; allowed: key=value, such as train.batch=8")
    value = _parse_path(raw) if _kind_of(key) == Optional(FilePath()) else _parse_yaml(raw, f"{COMMAND_LINE}: {key}")
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def _parse_path(raw: str) -> str | None:
    """A path as it stands, whatever YAML would make of it: only null and quotes around the whole are special."""
    if raw == "null":
        return None
    quote = raw[:1]
    quoted = quote in ("'", '"') and raw.endswith(quote) and raw.count(quote) == 2
    return raw[1:-1] if quoted else raw


def _kind_of(key: str) -> Any:
    """What the schema holds under a full key: a kind, a section (dict), or None for an unknown key."""
    kind = SCHEMA
    for name in key.split("."):
        kind = kind.get(name) if isinstance(kind, dict) else None
    return kind


def _checked(schema: dict, values: Any, prefix: str, where: str) -> dict:
    """The values in their final types; keys may be missing, but none may be unknown or wrong."""
    if not isinstance(values, dict):
        raise UserError(f"{_place(where, prefix)}{_short(values)} given; allowed: a section with {', '.join(schema)}")
    result = {}
    for name, value in values.items():
        if name not in schema:
            near = _nearest(f"{prefix}{name}", section=isinstance(value, dict))
            raise UserError(f"{where}: unknown key '{prefix}{name}'; the nearest valid key is {near!r}")
        kind = schema[name]
        if isinstance(kind, dict):
            result[name] = _checked(kind, value, f"{prefix}{name}.", where)
        else:
            result[name] = _parse(kind, value, f"{prefix}{name}", where)
    return result


def _parse(kind: Any, value: Any, key: str, where: str) -> Any:
    try:
        return kind.parse(value)
    except ValueError:
        words = getattr(kind, "words", ())
        near = difflib.get_close_matches(str(value), words, n=1) if isinstance(value, str) else []
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"{where}: {key}: {_short(value)} given; allowed: {kind.allowed}{hint}") from None


def _complete(schema: dict, values: Any, prefix: str, where: str) -> dict:
    result = _checked(schema, values, prefix, where)
    given = set(_flat(result))
    missing = [key for key in flat_keys(schema) if key not in given]
    if missing:
        raise UserError(f"{where}: key {prefix}{missing[0]} is missing ({len(missing)} missing in all)")
    return result


def _flat(values: dict, prefix: str = "") -> list[str]:
    keys = []
    for name, value in values.items():
        keys += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
    return keys


def _merge(config: dict, layer: dict) -> None:
    for name, value in layer.items():
        if isinstance(value, dict):
            _merge(config[name], value)
        else:
            config[name] = copy.deepcopy(value)


def _nearest(key: str, section: bool) -> str:
    """The valid key (or section) that the user most likely meant: same last name first, then alike in spelling."""
    keys = flat_sections(SCHEMA) if section else flat_keys(SCHEMA)
    same_name = [valid for valid in keys if valid.rsplit(".")[-1] == key.rsplit(".")[-1]]
    return difflib.get_close_matches(key, same_name or keys, n=1, cutoff=0.0)[0]


def _place(where: str, prefix: str) -> str:
    return f"{where}: {prefix[:-1]}: " if prefix else f"{where}: "


def _short(value: Any) -> str:
    """A value as an error shows it: never long, however large or self-referring it is."""
    shorten = reprlib.Repr()
    shorten.maxlevel, shorten.maxstring, shorten.maxother = 2, 80, 80
    return shorten.repr(value) if value is not None else "null"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
