"""Images that the memory does not hold are named, and the next one is done; memory does not grow with the image."""

import csv
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyvips

from tests.conftest import lines
from tests.inversion.conftest import photograph

ROOT = Path(__file__).parents[2]
WITHIN = """
import resource, sys
import infer
from images.vips import load_vips
from utils.errors import run_command
load_vips()
if limit := int(sys.argv[1]):
    limit = 2**20 * limit + resource.getpagesize() * int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(run_command(infer.main, sys.argv[2:]))
"""


def infer_within(mib, *arguments):
    """infer.py with so many MiB of addresses beyond those of its libraries (0: all): exit code, stderr."""
    given = [str(argument) for argument in (mib, *arguments, "device=cpu", "comparison=false", "latents=none")]
    done = subprocess.run([sys.executable, "-c", WITHIN, *given], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr


def write_bmp(path, height, width):
    """A black image whose file takes no room; it is decoded whole."""
    size = height * width * 3
    with open(path, "wb") as file:
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)
        file.write(struct.pack("<2sIII", b"BM", 54 + size, 0, 54) + header)
        file.truncate(54 + size)


def test_what_the_memory_does_not_hold_is_named_and_the_next_one_is_done(checkpoint, tmp_path):
    """One is too large to be decoded, another one to be drawn as a whole."""
    (tmp_path / "in").mkdir()
    write_bmp(tmp_path / "in/a.bmp", 12_000, 16_000)
    PIL.Image.new("RGB", (4000, 4000)).save(tmp_path / "in/b.png")
    PIL.Image.fromarray(photograph(300, 300)).save(tmp_path / "in/c.png")
    given = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--checkpoint", checkpoint]
    code, err = infer_within(500, *given, "block=whole")
    assert code == 1 and len(lines(err)) == len(err.splitlines()) == 2, err
    for line, name in zip(lines(err), ("a.bmp", "b.png"), strict=True):
        assert name in line and "memory" in line
    assert [path.name for path in (tmp_path / "out/reconstruction").iterdir()] == ["c.png"]


def test_memory_does_not_grow_with_the_image(checkpoint, tmp_path):
    """4096 x 4096 take at most 1.2 times the pixels of input and output more than 1024 x 1024."""
    (tmp_path / "in").mkdir()
    tile = pyvips.Image.new_from_array(photograph(512, 512))
    for edge in (1024, 4096):
        tile.replicate(edge // 512, edge // 512).jpegsave(str(tmp_path / f"in/{edge}.jpg"))
    given = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--checkpoint", checkpoint]
    code, err = infer_within(0, *given, "memory_mib=256", "dtype=float32")
    assert code == 0, err
    with open(tmp_path / "out/metrics.csv") as file:
        peaks = {row["name"]: float(row["peak_memory_mib"]) for row in csv.DictReader(file)}
    assert peaks["4096"] - peaks["1024"] < 1.2 * 2 * np.prod((4096, 4096, 3)) / 2**20
