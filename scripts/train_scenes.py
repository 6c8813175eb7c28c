"""Train the classifier of scenes, whose features judge images, on a folder with a folder for each label.

    python -m scripts.train_scenes --input FOLDER --output checkpoints/scenes.safetensors

Twenty minutes on one core of a CPU; the seed is fixed, so that the same images give the same classifier. It learns the
labels and quarter turns of crops of any scale and, as judges of quality do (CONTRIQUE: Madhusudana et al., IEEE TIP
2022), what was done to a part of them: so its features see blur, blocks and misplaced pieces as well as scenes.
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
from models.scenes import DISTORTIONS, EDGE, FORMAT, TURNS, SceneClassifier
from utils.checkpoint import save_weights
from utils.errors import UserError, run_command
from utils.files import refuse_overwriting
from utils.log import info, progress

STEPS, SIZE, RATE = 4000, 32, 0.01
CACHE = 150  # pixels along the edges of images that are held, from which crops are taken
SMALLEST = 56  # pixels along the edges of crops
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
        parts = np.array_split(images, len(images) // 64 + 1)
        found = torch.cat([network.features(as_input(part)) for part in parts])
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
    """Learn labels, turns and distortions of random, mirrored crops."""
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = np.random.default_rng(0)
    for step in progress(range(steps), "train", "step"):
        chosen, turns = random.integers(0, len(images), SIZE), random.integers(0, TURNS, SIZE)
        kinds = random.integers(0, DISTORTIONS, SIZE)
        others = random.integers(0, len(images), SIZE)
        crops, others = ([cut(each, random) for each in images[numbers]] for numbers in (chosen, others))
        distorted = [distort(*each, random) for each in zip(crops, kinds, others, strict=True)]
        batch = np.stack([np.rot90(each, turn) for each, turn in zip(distorted, turns, strict=True)])
        with torch.autocast("cpu", torch.bfloat16):
            scene, distortion = network(as_input(batch))
        parts = (
            F.cross_entropy(scene.float(), labels[chosen] * TURNS + torch.from_numpy(turns)),
            F.cross_entropy(distortion.float(), torch.from_numpy(kinds)),
        )
        optimizer.zero_grad()
        sum(parts).backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            info(f"step {step}  scene {parts[0].item():.3f}  distortion {parts[1].item():.3f}")


def cut(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A square crop of any scale, mirrored or not, resized to EDGE."""
    size = int(random.integers(SMALLEST, CACHE + 1))
    top, left = random.integers(0, CACHE - size + 1, 2)
    crop = image[top : top + size, left : left + size, :: random.choice((-1, 1))]
    return cv2.resize(crop, (EDGE, EDGE), interpolation=cv2.INTER_AREA if size > EDGE else cv2.INTER_LINEAR)


def distort(image: np.ndarray, kind: int, other: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """An image [EDGE, EDGE, 3] with a distortion, 0 (none) to 5, in a random rectangle with hard or soft edges."""
    strength = random.uniform()
    if kind == 0:
        return image
    if kind == 1:  # blur
        changed = cv2.GaussianBlur(image, None, 0.8 * 8**strength)
    elif kind == 2:  # blocks
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(5 + 45 * strength)]
        changed = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    elif kind == 3:  # noise
        changed = image + random.normal(0, 4 * 8**strength, image.shape)
    elif kind == 4:  # the same from elsewhere in the image
        changed = np.roll(image, random.integers(EDGE // 8, EDGE * 7 // 8, 2), (0, 1))
    else:  # another photograph
        changed = other
    (top, left), (bottom, right) = random.integers(0, EDGE // 2, 2), random.integers(EDGE // 2, EDGE, 2)
    share = np.zeros((EDGE, EDGE, 1), np.float32)
    share[top : bottom + 1, left : right + 1] = 1
    if random.uniform() < 0.5:
        share = cv2.GaussianBlur(share, None, random.uniform(0.5, 6))[..., None]
    return np.rint(image + share * (changed.clip(0, 255) - image.astype(np.float32))).astype(np.uint8)


def as_input(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


if __name__ == "__main__":
    sys.exit(run_command(main))
