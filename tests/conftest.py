"""Fixtures that several folders of tests share."""

import signal

import PIL.Image
import pytest
import torch
from hypothesis import settings

from models.weights import export
from tests.inversion.conftest import photograph, tiny_inverter, trunk_inverter
from utils.errors import run_command
from utils.signals import SIGNALS

# A busy core is no failure; other examples come with every run.
settings.register_profile("project", deadline=None, max_examples=20)
settings.load_profile("project")

# Operators that torchvision describes when it is imported; its compiled library may not fit the installed torch.
TORCHVISION_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@pytest.fixture(autouse=True)
def handlers_of_signals():
    """What a command does with signals ends with a test. One may be sent, whatever the starter ignores (nohup, `&`)."""
    defaults = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    for number, handler in defaults.items():
        signal.signal(number, handler)
    yield
    for number, handler in defaults.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, importable even where its compiled operators cannot be loaded: networks need none of them."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in TORCHVISION_SCHEMAS:
            library.define(schema)
        import torchvision
    else:
        library = None
    yield torchvision
    del library  # the schemas live as long as their library


@pytest.fixture
def photographs(tmp_path):
    """A folder with a.png (37 x 61), more/B.JPG (64 x 20) and tiny.png (a pixel)."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for name, size in {"a.png": (37, 61), "more/B.JPG": (64, 20), "tiny.png": (1, 1)}.items():
        PIL.Image.fromarray(photograph(*size)).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The file of a tiny inverter."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_inverter(path, tiny_inverter())
    return path


@pytest.fixture(scope="session")
def trunk_checkpoint(tmp_path_factory):
    """The file of a tiny inverter with a trunk."""
    path = tmp_path_factory.mktemp("weights") / "trunk.safetensors"
    write_inverter(path, trunk_inverter(channels=24))
    return path


def write_inverter(path, inverter):
    names = "generator", "encoder", "global_encoder"
    networks = {name: getattr(inverter, name) for name in names}
    export(path, inverter.model, {name: network for name, network in networks.items() if network}, step=0)


@pytest.fixture
def command(checkpoint, tmp_path, capsys):
    """Runs the `main` of a command; returns the exit code, what it printed to stderr, and the output folder."""

    def run(main, *arguments, output="output", given=checkpoint):
        folder = tmp_path / output
        arguments = ["--output", str(folder), "--checkpoint", str(given), "infer.device=cpu", *map(str, arguments)]
        code = run_command(main, arguments)
        return code, capsys.readouterr().err, folder

    return run


def lines(text):
    """The lines of stderr that name an error."""
    return [line for line in text.replace("\r", "\n").splitlines() if line.startswith(("error:", "failed:"))]
