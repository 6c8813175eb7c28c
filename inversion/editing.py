"""What the editing commands share: their arguments, their sources, and images of which a part is new."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from easydict import EasyDict
from torch import Tensor

from inversion.completion import Completion, FitOptions
from inversion.generation import LocalField
from inversion.grain import Grain, mixed, moved, wanted
from inversion.inputs import begin, failures, find_files, find_photographs, memory_errors
from inversion.latents import SUFFIXES, LatentStore
from inversion.pieces import Pieces, PlacedPhotographs, place
from inversion.scenes import Scene, Style
from inversion.tool import Tool, progress
from models.weights import SHIPPED
from utils import log
from utils.config import load_config
from utils.files import remove_stale
from utils.schema import Section

KINDS = ("inversions", "latents")  # folders of results, beside the pictures


def parse(
    description: str, argv: Sequence[str] | None, command: type[Section], inputs: dict
) -> tuple[argparse.Namespace, EasyDict]:
    """The arguments of an editing command and its config; `inputs`: how the parser takes --input."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, **inputs)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="inverter or generator of train.py")
    parser.add_argument("--config", help=f"YAML file with options of {', '.join(command.model_fields)}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single options, as seed=1")
    arguments = parser.parse_intermixed_args(argv)
    config = load_config(command, arguments.config, arguments.overrides)
    return arguments, config


@dataclass(frozen=True)
class Source:
    """An image to edit: its size at once, its latents when they are asked for."""

    name: str
    size: tuple[int, int]  # height, width, pixels
    latents: Callable[[], LatentStore]


def open_source(tool: Tool, path: Path, name: str, output: Path) -> Source:
    """Latents, or an image file, whose latents will be encoded into the output folder's inversions/."""
    if path.suffix in SUFFIXES:
        store = tool.open_latents(path)
        return Source(name, (store.description.height, store.description.width), lambda: store)
    image = tool.open_photograph(path)
    size = image.height, image.width

    def encode() -> LatentStore:
        return tool.encode(image, tool.latent_path(output / "inversions", name, size))

    return Source(name, size, encode)


def edit_files(tool: Tool, inputs: Path, output: Path, work: Callable[[Source], None]) -> int:
    """Edit an image or latent file, or each image of a folder; the command's exit code.

    UserError for what is wrong with a single file; in a folder, the others are done.
    """
    search = partial(find_photographs, output=output)
    files = find_files("--input", inputs, search, "JPEG, PNG, WebP, TIFF or BMP image")
    if any(path.suffix not in SUFFIXES for path in files):
        tool.require_encoder()
    begin(output, KINDS)
    for folder in {(output / name).parent for name in files.values()}:
        remove_stale(folder)
    if list(files) == [inputs]:
        with memory_errors(inputs):
            work(open_source(tool, inputs, inputs.stem, output))
        return 0
    failed: dict[str, str] = {}
    for path, name in files.items():
        with failures(path, name, failed):
            work(open_source(tool, path, name, output))
    if len(files) > 1:
        log.info(f"{len(files) - len(failed)} of {len(files)} images done; results in {output}")
    return 1 if failed else 0


@dataclass(frozen=True)
class Placement:
    """A photograph's latents, and where its first pixel lies on a canvas: pixels, multiples of a latent cell."""

    store: LatentStore
    top: int
    left: int


def place_all(tool: Tool, placements: Sequence[Placement], size: tuple[int, int]) -> PlacedPhotographs:
    """What photographs hold of the structure latents of a canvas of (height, width)."""
    cells, cell = tool.decoder.cells(*size), tool.cell
    return PlacedPhotographs([place(p.store, p.top // cell, p.left // cell, size, cells, cell) for p in placements])


def canvas_grain(
    tool: Tool,
    options: dict,  # the `complete` section
    placements: Sequence[Placement],
    seed: int,
    ramp: int,  # pixels
) -> Grain:
    """Texture noise of a canvas: a photograph's own inside, from 2 * ramp pixels beside it on that of what is new."""
    kinds, boxes = [wanted(options.noise, seed)], []
    for placement in placements:
        size = placement.store.description.height, placement.store.description.width
        kinds.append(moved(tool.grain(placement.store), (placement.top, placement.left), size))
        bottom, right = placement.top + size[0], placement.left + size[1]
        boxes.append((placement.top - ramp, placement.left - ramp, bottom + ramp, right + ramp))
    return mixed(kinds, ramp, boxes)


def complete(
    tool: Tool,
    options: dict,  # the `complete` section
    pieces: Pieces,
    size: tuple[int, int],  # height, width of the canvas
    style: Style,
    seed: int,
    name: str,
) -> Completion:
    """The structure latents of a canvas that go on from known pieces, fitted with a progress bar."""
    fit = FitOptions(options.steps, options.lr, options.style_lr, options.fidelity, options.band, options.fade)
    local = LocalField(tool.generator.structure.local_dim, seed, tool.device)
    completion = Completion(tool.generator, pieces, tool.decoder.cells(*size), style, local, fit)
    with progress(f"{name}: fit", options.steps, "step") as bar:
        completion.fit(bar.update)
    return completion


def draw_stored(
    tool: Tool, completion: Completion, size: tuple[int, int], z_g: Tensor, grain: Grain, seed: int, path: Path
) -> None:
    """Write the picture of a completed image of (height, width) in one style [D], and its latents into latents/."""
    latents = tool.latent_path(path.parent / "latents", path.stem, size)
    store = tool.store(latents, completion.read, size, z_g, seed, grain)
    tool.draw_picture(Scene(size, store.read, z_g, tool.noise(grain, size), stored=True), path)
