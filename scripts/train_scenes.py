"""Train the classifier of scenes, whose features judge generated images, on a folder with a folder for each label.

    python -m scripts.train_scenes --input FOLDER --output checkpoints/scenes.safetensors

A few minutes on a CPU; the seed is fixed, so that the same images give the same classifier.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from images.listing import find_images
from images.reading import ImageError, open_image
from models.scenes import EDGE, FORMAT, TURNS, SceneClassifier
from utils.checkpoint import save_weights
from utils.errors import UserError, run_command
from utils.files import refuse_overwriting
from utils.log import info, progress

STEPS, SIZE, RATE = 3000, 64, 0.002
CACHE = 80  # pixels along the edges of images that are held, from which crops are taken
MOST_PIXELS = 2**28


def main(argv: Sequence[str] | None = None) -> int:
    """Read, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder with a folder of images for each label")
    parser.add_argument("--output", type=Path, required=True, help="file of the classifier")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training")
    arguments = parser.parse_args(argv)
    files = find(arguments.input)
    refuse_overwriting(chain(*files.values()), [arguments.output])
    images, labels = read(files)
    torch.manual_seed(0)
    network = SceneClassifier(int(labels.max()) + 1)
    info(f"{len(images)} images of {int(labels.max()) + 1} labels")
    train(network, images, labels, arguments.steps)
    with torch.inference_mode():
        found = torch.cat([network.features(as_input(part)) for part in np.array_split(images, len(images) // 64 + 1)])
    values = {"mean": found.mean(0), "deviation": found.var(0).mean().sqrt().clamp(min=1e-3)}
    save_weights(arguments.output, network.state_dict() | values, {"format": FORMAT})
    return 0


def find(folder: Path) -> dict[str, list[Path]]:
    """The images of each label. UserError where there are none."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = {each.name: find_images(each) for each in folders}
    if not any(files.values()):
        raise UserError(f"--input {folder}: no folders of images")
    return files


def read(files: dict[str, list[Path]]) -> tuple[np.ndarray, torch.Tensor]:
    """All images uint8 [N, CACHE, CACHE, 3] and the numbers of their labels [N], of files by label."""
    images, labels = [], []
    for label, name in enumerate(files):
        for path in progress(files[name], name, "image"):
            try:
                image = open_image(path, MOST_PIXELS)
            except ImageError:
                continue
            whole = image.window(0, 0, image.height, image.width)
            images.append(cv2.resize(whole, (CACHE, CACHE), interpolation=cv2.INTER_AREA))
            labels.append(label)
    if not images:
        raise UserError("--input: no image can be read")
    return np.stack(images), torch.tensor(labels)


def train(network: SceneClassifier, images: np.ndarray, labels: torch.Tensor, steps: int) -> None:
    """Learn labels and turns of random, mirrored crops."""
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = np.random.default_rng(0)
    for step in range(steps):
        chosen, turns = random.integers(0, len(images), SIZE), random.integers(0, TURNS, SIZE)
        top, left = random.integers(0, CACHE - EDGE + 1, (2, SIZE))
        batch = np.stack([
            np.rot90(images[n, y : y + EDGE, x : x + EDGE][:, :: 1 if step % 2 else -1], turn)
            for n, y, x, turn in zip(chosen, top, left, turns, strict=True)
        ])  # fmt: skip
        loss = F.cross_entropy(network(as_input(batch)), labels[chosen] * TURNS + torch.from_numpy(turns))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            info(f"step {step}  loss {loss.item():.3f}")


def as_input(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


if __name__ == "__main__":
    sys.exit(run_command(main))
