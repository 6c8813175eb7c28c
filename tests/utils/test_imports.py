"""An import changes nothing but the list of modules; neither imports nor commands need what only Unix has."""

import json
import os
import subprocess
import sys

import PIL.Image

from tests.inversion.conftest import photograph
from tests.test_style import PRODUCT, ROOT, module
from tests.training.conftest import TINY

UNIX_ONLY = ("fcntl", "resource", "pwd", "grp", "termios", "syslog")
UNIX_NAMES = {
    "os": ["fork", "forkpty", "register_at_fork", "sched_getaffinity", "nice", "getuid", "geteuid", "killpg", "mkfifo"],
    "signal": ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGBUS", "setitimer"],
}

# Imports what others wrote and what may set something, looks, imports what is ours, looks again.
CODE = """
import importlib, json, os, signal, sys
import cv2, easydict, filelock, lmdb, PIL.Image, psutil, pydantic, pyvips, safetensors.torch, scipy, skimage, tqdm
import skimage.metrics, tensorboardX, torch.distributed, zarr
ours, unix_only = json.loads(sys.argv[1])

def state():
    return {
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark],
        "pixels": PIL.Image.MAX_IMAGE_PIXELS,
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "environment": dict(os.environ),
        "dtype": str(torch.get_default_dtype()),
        "seed": torch.initial_seed(),
        "torchvision": "torchvision" in sys.modules,  # which may not fit, and takes a second
    }

before, failed = state(), {}
sys.modules |= dict.fromkeys(unix_only)
for name in ours:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
after = state()
print(json.dumps([failed, {name: [value, after[name]] for name, value in before.items() if value != after[name]}]))
"""


def test_importing_everything_changes_nothing():
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([[*map(module, PRODUCT)], UNIX_ONLY])],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    failed, changed = json.loads(done.stdout.splitlines()[-1])
    assert failed == {} and changed == {}


# As under Windows and macOS: without what others do not have, and with worker processes that are not forked.
COMMANDS = """
import json, multiprocessing, os, signal, sys
import cv2, easydict, filelock, lmdb, PIL.Image, psutil, pydantic, pyvips, safetensors.torch, scipy, skimage, tqdm
import skimage.metrics, tensorboardX, torch.distributed, torch.utils.data, zarr
modules, names, commands = json.loads(sys.argv[1])
multiprocessing.set_start_method("spawn")
sys.modules |= dict.fromkeys(modules)
for module, gone in names.items():
    for name in gone:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
from importlib import import_module
from utils.errors import run_command
print(json.dumps([run_command(import_module(name).main, arguments) for name, *arguments in commands]))
"""


def test_commands_do_their_work_without_what_only_unix_has(photographs, checkpoint, tmp_path):
    for number in range(4):
        PIL.Image.fromarray(photograph(50 + number, 60)).save(photographs / f"{number}.png")
    (tmp_path / "tiny.yaml").write_text(TINY)
    common = ["--checkpoint", str(checkpoint), "infer.device=cpu", "infer.dtype=float32"]
    training = ["--config", str(tmp_path / "tiny.yaml"), f"data.train={tmp_path / 'prepare_data' / 'train'}"]
    training += [f"train.output={tmp_path / 'train'}", "train.steps=1", "data.workers=1", "data.val=none"]
    given = {
        "infer": ["--input", str(photographs), *common],
        "generate": ["height=32", "width=32", *common],
        "edit": ["resample", "box=0,0,8,8", "generate.height=32", "generate.width=32", "complete.steps=1", *common],
        "prepare_data": ["--input", str(photographs)],
    }
    commands = [[name, *words, "--output", str(tmp_path / name)] for name, words in given.items()]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([UNIX_ONLY, UNIX_NAMES, [*commands, ["train", *training]]])],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0] * 5, done.stdout + done.stderr
    assert (tmp_path / "train" / "generator.safetensors").exists()
