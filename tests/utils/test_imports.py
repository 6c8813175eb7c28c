"""An import changes nothing but the list of modules, and needs nothing that only Unix has."""

import json
import os
import subprocess
import sys

from tests.test_style import PRODUCT, ROOT, module

UNIX_ONLY = ("fcntl", "resource")

# Imports what others wrote and what may set something, looks, imports what is ours, looks again.
CODE = """
import importlib, json, os, signal, sys
import cv2, easydict, filelock, lmdb, PIL.Image, psutil, pydantic, pyvips, safetensors.torch, scipy, skimage, tqdm
import skimage.metrics, tensorboardX, torch.distributed.nn.functional, zarr
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
