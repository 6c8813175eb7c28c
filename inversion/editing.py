"""What the editing commands share: their arguments, their sources, and images of which a part is new."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from easydict import EasyDict

from inversion.completion import Completion, FitOptions
from inversion.generation import LocalField
from inversion.inputs import begin, failures, find_files, find_photographs, memory_errors
from inversion.latents import LatentStore
from inversion.pieces import Pieces
from inversion.scenes import MixedNoise, Scene, Style
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


def source(tool: Tool, path: Path, name: str, output: Path) -> LatentStore:
    """The latents of an image file, encoded into the output folder's inversions/, or those of a latent file."""
    if path.suffix == SUFFIX:
        return tool.open_latents(path)
    image = tool.open_photograph(path)
    with progress(f"{name}: encode", tool.count_cell_blocks((image.height, image.width))) as bar:
        return tool.encode(image, output / "inversions" / f"{name}{SUFFIX}", bar.update)


def edit_files(tool: Tool, inputs: Path, output: Path, work: Callable[[LatentStore, str], None]) -> int:
    """Edit an image or latent file, or each image of a folder, by `work` (latents, name); the command's exit code.

    UserError for what is wrong with a single file; in a folder, the others are done.
    """
    search = partial(find_photographs, output=output)
    files = find_files("--input", inputs, search, "JPEG, PNG, WebP, TIFF or BMP image")
    if any(path.suffix != SUFFIX for path in files):
        tool.require_encoder()
    begin(output, KINDS)
    if not inputs.is_dir():
        with memory_errors(inputs):
            work(source(tool, inputs, inputs.stem, output), inputs.stem)
        return 0
    failed: dict[str, str] = {}
    for path, name in files.items():
        with failures(path, name, failed):
            work(source(tool, path, name, output), name)
    if len(files) > 1:
        say(f"{len(files) - len(failed)} of {len(files)} images done; results in {output}")
    return 1 if failed else 0


def size_of(store: LatentStore) -> tuple[int, int]:
    """Height and width of the image that latents belong to, pixels."""
    return store.description.height, store.description.width


def mixed_noise(tool: Tool, new: Label, size: tuple[int, int], blur: int, old: Noise | None, field: Noise | None):
    """Noise that is `field` where `new` is 1 and `old` where it is 0, over `blur` pixels to each side of its border."""
    if old is None and field is None:
        return None
    weights = SoftMap(new, 2, Region.at(0, 0, *size), blur)
    return MixedNoise(weights, old, field, tool.generator.texture.spacing)


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
    fit = FitOptions(
        options.steps, options.lr, options.style_lr, options.fidelity, options.band, options.fade
    )
    local = LocalField(tool.generator.structure.local_dim, seed, tool.device)
    completion = Completion(tool.generator, pieces, tool.decoder.cells(*size), style, local, fit)
    with progress(f"{name}: fit", options.steps, "step") as bar:
        completion.fit(bar.update)
    return completion


def new_noise(tool: Tool, options: dict, seed: int) -> NoiseField | None:
    """The texture noise that `complete.noise` asks for."""
    return NoiseField(seed, tool.device) if options.noise == "field" else None


def draw_stored(
    tool: Tool, completion: Completion, scene: Scene, seed: int, output: Path, name: str
) -> None:
    """Write the completed latents of a scene of one style into latents/, and draw the image from them."""
    parts = ((region, completion.read(region)) for region in tool.cell_blocks(scene.size))
    with progress(f"{name}: latents", tool.count_cell_blocks(scene.size)) as bar:
        store = tool.store(output / "latents" / f"{name}{SUFFIX}", parts, scene.size, scene.style, seed, bar.update)
    tool.draw_png(Scene(scene.size, store.read, scene.style, scene.noise), output / f"{name}.png")
