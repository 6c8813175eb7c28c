"""What the editing commands share: their arguments, their sources, and images of which a part is new."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from easydict import EasyDict

from inversion.completion import Completion, FitOptions
from inversion.generation import LocalField
from inversion.inputs import begin, failures, find_files, find_photographs, memory_errors
from inversion.latents import LatentStore
from inversion.masks import rectangles
from inversion.pieces import Pieces, PlacedPhotographs, place
from inversion.scenes import MixedNoise, MovedNoise, Scene, Style
from inversion.stylemaps import Label, SoftMap
from inversion.tool import Tool, progress
from models.generator import Noise
from models.geometry import Region
from models.noise import NoiseField
from models.weights import SHIPPED
from utils.config import load_config
from utils.log import say

SUFFIX = ".safetensors"  # of latent files
KINDS = ("inversions", "latents")  # folders of results, beside the pictures


def parse(
    description: str, argv: Sequence[str] | None, sections: Sequence[str], inputs: dict
) -> tuple[argparse.Namespace, EasyDict]:
    """The arguments of an editing command and its config; `inputs`: how the parser takes --input."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, **inputs)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="inverter or generator of train.py")
    parser.add_argument("--config", help=f"YAML file with options of {', '.join(sections)}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"single options, as {sections[0]}.seed=1")
    arguments = parser.parse_intermixed_args(argv)
    return arguments, load_config(arguments.config, arguments.overrides, sections)


@dataclass(frozen=True)
class Source:
    """An image to edit: its size at once, its latents when they are asked for."""

    name: str
    size: tuple[int, int]  # height, width, pixels
    latents: Callable[[], LatentStore]


def open_source(tool: Tool, path: Path, name: str, output: Path) -> Source:
    """A latent file, or an image file, whose latents will be encoded into the output folder's inversions/."""
    if path.suffix == SUFFIX:
        store = tool.open_latents(path)
        return Source(name, (store.description.height, store.description.width), lambda: store)
    image = tool.open_photograph(path)
    size = image.height, image.width

    def encode() -> LatentStore:
        with progress(f"{name}: encode", tool.count_cell_blocks(size)) as bar:
            return tool.encode(image, output / "inversions" / f"{name}{SUFFIX}", bar.update)

    return Source(name, size, encode)


def edit_files(tool: Tool, inputs: Path, output: Path, work: Callable[[Source], None]) -> int:
    """Edit an image or latent file, or each image of a folder; the command's exit code.

    UserError for what is wrong with a single file; in a folder, the others are done.
    """
    search = partial(find_photographs, output=output)
    files = find_files("--input", inputs, search, "JPEG, PNG, WebP, TIFF or BMP image")
    if any(path.suffix != SUFFIX for path in files):
        tool.require_encoder()
    begin(output, KINDS)
    if not inputs.is_dir():
        with memory_errors(inputs):
            work(open_source(tool, inputs, inputs.stem, output))
        return 0
    failed: dict[str, str] = {}
    for path, name in files.items():
        with failures(path, name, failed):
            work(open_source(tool, path, name, output))
    if len(files) > 1:
        say(f"{len(files) - len(failed)} of {len(files)} images done; results in {output}")
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


def canvas_noise(
    tool: Tool,
    options: dict,  # the `complete` section
    placements: Sequence[Placement],
    size: tuple[int, int],
    seed: int,
    ramp: int,  # pixels
) -> Noise | None:
    """Texture noise of a canvas: a photograph's own inside, from 2 * ramp pixels beside it on that of what is new."""
    spacing = tool.generator.texture.spacing
    kinds, boxes = [new_noise(tool, options, seed)], []
    for placement in placements:
        description = placement.store.description
        own = tool.noise(description.seed)
        kinds.append(own and MovedNoise(own, placement.top, placement.left, spacing))
        bottom, right = placement.top + description.height, placement.left + description.width
        boxes.append((placement.top - ramp, placement.left - ramp, bottom + ramp, right + ramp))
    return mixed_noise(tool, rectangles(boxes), size, ramp, kinds)


def mixed_noise(
    tool: Tool, label: Label, size: tuple[int, int], blur: int, kinds: Sequence[Noise | None]
) -> Noise | None:
    """The kind of noise that the label of a position names, over `blur` pixels to each side of where it changes."""
    if all(kind is None for kind in kinds):
        return None
    return MixedNoise(SoftMap(label, len(kinds), Region.at(0, 0, *size), blur), kinds, tool.generator.texture.spacing)


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


def new_noise(tool: Tool, options: dict, seed: int) -> NoiseField | None:
    """The texture noise that `complete.noise` asks for."""
    return NoiseField(seed, tool.device) if options.noise == "field" else None


def draw_stored(tool: Tool, completion: Completion, scene: Scene, seed: int, output: Path, name: str) -> None:
    """Write the completed latents of a scene of one style into latents/, and draw the image from them."""
    parts = ((region, completion.read(region)) for region in tool.cell_blocks(scene.size))
    with progress(f"{name}: latents", tool.count_cell_blocks(scene.size)) as bar:
        store = tool.store(output / "latents" / f"{name}{SUFFIX}", parts, scene.size, scene.style, seed, bar.update)
    tool.draw_png(Scene(scene.size, store.read, scene.style, scene.noise), output / f"{name}.png")
