"""The house rules that a syntax tree can tell: short functions, docstrings, no dead code, imports in one direction."""

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMANDS = ("train", "infer", "generate", "edit", "evaluate", "prepare_data")
ROOMS = ("scripts", "tests", *(path.parent.name for path in ROOT.glob("*/__init__.py")))
FILES = sorted(
    path.relative_to(ROOT)
    for pattern in (*(f"{name}.py" for name in COMMANDS), *(f"{name}/**/*.py" for name in ROOMS))
    for path in ROOT.glob(pattern)
)
PRODUCT = [path for path in FILES if path.parts[0] != "tests"]

LONGEST = 60  # lines of a function
LONGEST_LOOP = 100  # of the one training loop
PRINTING = (*COMMANDS, "utils.log", "utils.config", "benchmarks", "scripts")

# From bottom to top: who stands further down may be imported. Names of one line do not know each other.
HOUSE = (
    ("utils",),
    ("models.geometry",),
    ("models.noise", "models.trunk"),
    ("models.layers",),
    ("models.statistics", "models.scenes"),
    ("models.structure", "models.texture", "models.encoder", "models.discriminator"),
    ("models.generator", "models.mixing", "models.critic"),
    ("models",),
    ("models.weights",),
    ("losses", "images"),
    ("datasets", "inversion"),
    ("editing", "training"),
    ("evaluation",),
    COMMANDS,
    ("benchmarks", "scripts"),
)


@cache
def tree(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def nodes(path, *kinds):
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


def module(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


def room(name):
    """The line of the house that a module stands on, and its name there; None for modules that are not ours."""
    for level, names in enumerate(HOUSE):
        for known in names:
            if name == known or (known != "models" and name.startswith(f"{known}.")):
                return level, known
    return None


def imported(path):
    """Full names of the modules that a file imports, wherever it does."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in submodules)


def is_code(text):
    """Whether a comment is a statement that does something."""
    try:
        statements = ast.parse(text).body
    except SyntaxError:
        return False
    acting = (ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.Return, ast.Assert, ast.Delete)
    return any(
        isinstance(statement, acting) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call))
        for statement in statements
    )


def whole_line_comments(path):
    tokens = tokenize.generate_tokens(io.StringIO((ROOT / path).read_text(encoding="utf-8")).readline)
    for token in tokens:
        if token.type == tokenize.COMMENT and token.line.strip() == token.string:
            yield token.start[0], token.string.lstrip("# ")


def test_there_is_something_to_check():
    assert {"train", "models.geometry", "benchmarks.memory", "tests.test_style"} <= MODULES


def test_every_module_says_what_it_is():
    assert [path for path in FILES if not ast.get_docstring(tree(path))] == []


def test_functions_are_short():
    def longest(path, function):
        return LONGEST_LOOP if (str(path), function.name) == ("train.py", "train") else LONGEST

    assert [
        f"{path}:{function.lineno} {function.name}"
        for path in FILES
        for function in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef)
        if function.end_lineno - function.lineno + 1 > longest(path, function)
    ] == []


def test_no_code_in_comments():
    assert [f"{path}:{line}" for path in FILES for line, text in whole_line_comments(path) if is_code(text)] == []


def test_nothing_is_caught_or_imported_blindly():
    def blind(node):
        if isinstance(node, ast.ExceptHandler):
            return node.type is None
        return isinstance(node, ast.Global) or node.names[0].name == "*"

    kinds = (ast.ExceptHandler, ast.ImportFrom, ast.Global)
    assert [f"{path}:{node.lineno}" for path in FILES for node in nodes(path, *kinds) if blind(node)] == []


def has_no_place(path, call):
    """Whether a call is one that the house does not allow in this file."""
    name, keywords = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name == "print":
        return not module(path).startswith(PRINTING)
    if name == "torch.load" or "weights_only" in keywords:
        return keywords.get("weights_only") != "True"
    return bool(re.search(r"\.cuda$|^(exec|eval|breakpoint)$|^pickle\.loads?$", name))


def test_calls_that_have_no_place():
    calls = ((path, call) for path in PRODUCT for call in nodes(path, ast.Call))
    assert [f"{path}:{call.lineno}" for path, call in calls if has_no_place(path, call)] == []


def test_every_module_has_a_place_in_the_house():
    assert [path for path in PRODUCT if room(module(path)) is None] == []


def test_imports_go_one_way():
    def may(here, there):
        return there is None or there[1] == here[1] or there[0] < here[0]

    assert [
        f"{path} imports {name}"
        for path in PRODUCT
        for name in imported(path)
        if not may(room(module(path)), room(name))
    ] == []


def test_no_object_keeps_the_config():
    attributes = ((path, node) for path in PRODUCT for node in nodes(path, ast.Attribute) if node.attr == "config")
    assert [f"{path}:{node.lineno}" for path, node in attributes if ast.unparse(node) == "self.config"] == []
