"""Compares our networks and losses with numbers that the public InfinityGAN code gave, on the CPU in float32.

    python -m tests.infinitygan_parity FOLDER

The folder holds infinitygan_hparams.json, a checkpoint in the public layout, and safetensors files with `in.` given,
`mid.` on the way, `out.` result; tests/infinitygan_reference.py writes such folders. Every size comes from there.
Prints a line for each quantity with its relative error, max |ours - theirs| / max |theirs| over the tensor, and exits
with 1 if one is above 1e-4, with 2 if the folder cannot be used. Files of numbers that are missing are named.
Letters: B batch, C channels, D style, N fused styles, L layers of the texture synthesizer, h/w cells, H/W pixels.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inversion.blocks import blocks, pixels_per_cell
from inversion.stylemaps import SoftMap, nearest_centre
from losses import adversarial
from losses.latent import maximum_mean_discrepancy
from losses.perceptual import LPIPS
from models import build_discriminator, build_generator
from models.generator import Generator, Noise
from models.geometry import Interval, Region, regions_from
from models.infinitygan import Checkpoint, Constants, discriminator_state, generator_state, read_checkpoint
from models.mixing import StyleWeights, mix_structure, mix_texture
from models.structure import CoordinateGrid
from models.texture import StageStyles, synthesize
from training.draws import Latents
from utils.checkpoint import load_pretrained
from utils.errors import UserError, run_command

TOLERANCE = 1e-4
PARAMETERS = "infinitygan_hparams.json"
CHECKPOINT = "infinitygan_best_fid.pth.tar"
GENERATOR = "infinitygan_state_dict"
DISCRIMINATOR = "infinitygan_discriminator_state_dict"

Quantities = Iterator[tuple[str, Any, Any]]  # name, ours, theirs


class Parameters:
    """The parameter file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except ValueError as error:
            raise UserError(f"{path}: damaged: {error}") from error

    def __call__(self, *keys: str) -> Any:
        """The value at nested keys. UserError if there is none."""
        value = self.content
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise UserError(f"{self.path}: no {'.'.join(keys)}")
            value = value[key]
        return value


@dataclass
class Recorded:
    """The tensors of a file, those of numbers in float32; remembers which were asked for."""

    path: Path
    tensors: Mapping[str, Tensor]
    seen: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise UserError(f"{self.path}: no tensor {name}")
        value = self.tensors[name]
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{self.path}: damaged: {name} holds values that are not finite")
        self.seen.add(name)
        return value.float() if value.is_floating_point() else value

    def matching(self, pattern: str) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
        """Name, numbers (the groups of the pattern) and value of all tensors whose whole names match, in order."""
        found = []
        for name in self.tensors:
            match = re.fullmatch(pattern, name)
            if match:
                found.append((tuple(int(group) for group in match.groups()), name))
        for numbers, name in sorted(found):
            yield name, numbers, self[name]

    @property
    def unseen(self) -> list[str]:
        """Names that nothing has asked for."""
        return sorted(self.tensors.keys() - self.seen)


@dataclass(frozen=True)
class Case:
    """What all files of a folder share."""

    folder: Path
    parameters: Parameters
    checkpoint: Checkpoint
    generator: Generator

    @property
    def grid(self) -> CoordinateGrid:
        """The coordinates' constants."""
        return self.generator.structure.grid


@dataclass(frozen=True)
class Result:
    """The error of one quantity."""

    file: str
    name: str
    error: float

    @property
    def passed(self) -> bool:
        """Whether the error is small; one that is not a number is not."""
        return self.error <= TOLERANCE

    def __str__(self) -> str:
        return f"{self.file:<32} {self.name:<36} {self.error:8.1e}  {'ok' if self.passed else 'ABOVE'}"


def relative_error(ours: Any, theirs: Any) -> float:
    """max |ours - theirs| / max |theirs|; infinite where shapes differ, or where theirs is 0 and ours is not."""
    ours, theirs = (torch.as_tensor(value).detach().double() for value in (ours, theirs))
    if ours.shape != theirs.shape:
        return math.inf
    if ours.numel() == 0 or torch.equal(ours, theirs):
        return 0.0
    scale = theirs.abs().max().item()
    return (ours - theirs).abs().max().item() / scale if scale else math.inf


def noise_of(recorded: Recorded, generator: Generator, cells: Region, prefix: str = "in") -> Noise:
    """The recorded noise as a field: layer k's tensor covers what the layer gives from these latent cells."""
    canvases, region = [], cells
    for index, layer in enumerate(generator.texture.layers):
        region = region.valid_output(layer.conv.rule)
        canvases.append((region, recorded[f"{prefix}.noise_{index}"]))

    def noise(layer: int, top: int, left: int, height: int, width: int) -> Tensor:
        canvas, values = canvases[layer]
        rows, cols = Region.at(top, left, height, width).slices_in(canvas)
        return values[..., rows, cols]

    return noise


class Canvas:
    """The latents and the noise of a file in the absolute frame, where structure cell (0, 0) is the first one."""

    def __init__(self, case: Case, recorded: Recorded, prefix: str = "in") -> None:
        self.generator, self.recorded = case.generator, recorded
        self.structure, self.texture = case.generator.structure, case.generator.texture
        self.z_l = recorded[f"{prefix}.local"]
        first = self.structure.rule.receptive_field(Interval(0, 0)).first
        self.local = Region.at(first, first, *self.z_l.shape[-2:])
        self.cells = self.local.valid_output(self.structure.rule)
        self.pixels = self.cells.valid_output(self.texture.rule)
        self.noise = noise_of(recorded, case.generator, self.cells, prefix)

    def window(self, cells: Region) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Local latents and coordinates for a region of structure cells, and the origin of both."""
        local = cells.receptive_field(self.structure.rule)
        rows, cols = local.slices_in(self.local)
        coordinates = self.structure.grid.of_canvas(local, self.local)
        return self.z_l[..., rows, cols], coordinates, (local.rows.first, local.cols.first)

    def before(self, layer: int) -> tuple[Region, int]:
        """Features that texture layer `layer` reads, and the pixels between them."""
        region = self.cells
        for earlier in self.texture.layers[:layer]:
            region = region.valid_output(earlier.conv.rule)
        return region, self.texture.spacing(layer - 1) if layer else pixels_per_cell(self.texture)

    def draw(self, synthesizer: Callable[..., Tensor], read: Callable[[Region], Tensor], edge: int) -> Tensor:
        """All pixels in blocks of `edge`; `read` gives structure latents, `synthesizer` draws them."""
        image = torch.full((1, 3, *self.pixels.shape), math.nan)
        for region in blocks(self.pixels, (edge, edge)):
            drawn = synthesizer(read(region.receptive_field(self.texture.rule)), self.noise, region)
            image[(..., *region.slices_in(self.pixels))] = drawn
        return image


# Quantities, a function for each file


def imported(case: Case, recorded: Recorded) -> Quantities:
    """The checkpoint against the file of the averaged generator, and against its own content."""
    checkpoint, raw = case.checkpoint, load_pretrained(case.folder / CHECKPOINT)
    lengths = raw["mean_path_lengths"] if "mean_path_lengths" in raw else raw["mean_path_length"]
    average = generator_state({name: recorded[name] for name in recorded.tensors}, str(recorded.path))
    yield "checkpoint: names of the average", sorted(checkpoint.average) == sorted(average), True
    yield "checkpoint: average", *_worst(checkpoint.average, average)
    yield "checkpoint: generator", *_worst(checkpoint.generator, generator_state(raw["g"]))
    yield "checkpoint: generator differs", relative_error(*_worst(checkpoint.generator, average)) > 0, True
    lengths = lengths[0] if isinstance(lengths, (list, tuple)) else lengths
    yield "checkpoint: path mean", checkpoint.path_mean, float(lengths)
    yield "checkpoint: iteration", checkpoint.iteration, raw["iter"]
    yield "checkpoint: architecture", *_architecture(case)


def _worst(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The two tensors of equal name that differ the most."""
    return max(((ours[name], theirs[name]) for name in theirs), key=lambda pair: relative_error(*pair))


def _architecture(case: Case) -> tuple[list[float], list[float]]:
    """The inferred sizes, and those of the parameter file."""
    model, texture, given = case.checkpoint.model, case.generator.texture, case.parameters
    cells = Interval(0, given("ts_input_size") - 1)
    widths = [width for width in model["texture"]["widths"] for _ in range(2)]
    structure = model["structure"]
    sizes = [model["global_dim"], model["local_dim"], structure["layers"], structure["radius"]]
    ours = [*sizes, model["texture"]["mapping_layers"], *widths, texture.rule.valid_output(cells).size]
    keys = ("global_latent_dim", "local_latent_dim", "ss_n_layers", "ss_unfold_radius", "n_mlp")
    return ours, [*(given(key) for key in keys), *given("ts_conv_out_channels"), given("patch_size")]


def coordinates(case: Case, recorded: Recorded) -> Quantities:
    """Grids of images, and those of training."""
    for name, (height, width), theirs in recorded.matching(r"test_(\d+)x(\d+)"):
        region = Region.at(0, 0, height, width)
        yield name, case.grid.of_canvas(region, region), theirs
    for name, (height, width), theirs in recorded.matching(r"test_(\d+)x(\d+)_pano"):
        region = Region.at(0, 0, height, width)
        yield name, case.grid.of_canvas(region, region, period=width), theirs
    for name, (height, width, row, col), theirs in recorded.matching(r"test_(\d+)x(\d+)_init_(\d+)_(\d+)"):
        rows = torch.arange(height) - (height - 1) / 2 + row / 2  # the public code keeps half of a start row
        yield name, case.grid.channels(rows[None], (torch.arange(width).float() + col)[None]), theirs
    constant = recorded["const_grid"]
    rows, cols = (torch.arange(n).float() for n in constant.shape[1:])
    ours = case.grid.channels((rows - (len(rows) - 1) / 2)[None], cols[None])[0]
    yield "const_grid", ours, _wrapped(constant)
    size = recorded["train_coords"].shape[-1]
    yield "const_grid: size", [size + case.grid.row_starts, case.grid.horizontal_period], list(constant.shape[1:])
    yield from _training_grids(case.grid, recorded)


def _training_grids(grid: CoordinateGrid, recorded: Recorded) -> Quantities:
    """Grids and labels of training patches from the recorded draws."""
    theirs, labels = recorded["train_coords"], recorded["train_ac_coords"]
    row, col, reach = recorded["train_x_start"], recorded["train_y_start"], recorded["perturb_range"]
    across = 2 / (grid.horizontal_period - 1)
    cell = torch.tensor([grid.vertical_slope, across, across])  # gain per cell before tanh, cos and sin
    yield "perturb_range", cell / 2, reach
    jitter = (2 * recorded["train_uniform01"].T - 1) * reach / cell
    yield "train_coords", grid.of_patches(row, col, theirs.shape[-1], jitter), theirs
    yield "train_ac_coords: vertical", grid.label(row), labels[:, 0]
    angles = grid.channels(torch.zeros(len(col), 1), col[:, None].float())[:, 1:, 0, 0]
    yield "train_ac_coords: cos, sin", angles, labels[:, 1:]


def _wrapped(raw: Tensor) -> Tensor:
    """Channels [3, h, w] before tanh, cos and sin -> after."""
    return torch.stack([raw[0].tanh(), (math.pi * raw[1]).cos(), (math.pi * raw[2]).sin()])


def patch(case: Case, recorded: Recorded) -> Quantities:
    """A batch of patches: every part of the generator."""
    canvas = Canvas(case, recorded)
    z, texture = recorded["in.z"], case.generator.texture
    styles = torch.stack([texture.mapping(z[:, k]) for k in range(z.shape[1])], dim=1)
    yield "out.w", styles, recorded["out.w"]
    with _outputs(case.generator.structure.layers) as given:
        z_s = case.generator.structure(canvas.z_l, z[:, 0], recorded["in.coords"])
    for name, (index,), theirs in recorded.matching(r"mid\.ss_block_(\d+)"):
        yield name, given[index][: len(theirs)], theirs
    yield "out.structure", z_s, recorded["out.structure"]
    with _outputs(texture.layers) as given:
        image = texture(z_s, styles[:, 0], canvas.noise)
    for name, (index,), theirs in recorded.matching(r"mid\.ts_conv_(\d+)"):
        yield name, given[index][: len(theirs)], theirs
    baked = texture.bake(styles[0, 0], torch.float32)
    regions = regions_from(Region.at(0, 0, *z_s.shape[-2:]), texture.stages)
    for name, (stage,), theirs in recorded.matching(r"mid\.rgb_(\d+)"):
        n = stage + 1
        yield name, synthesize(baked.stages[:n], z_s[:1], [StageStyles(None, None, None)] * n, _first(canvas.noise, 1), regions[:n]), theirs
    yield "out.image_nomix", image, recorded["out.image_nomix"]
    for name, (inject,), theirs in recorded.matching(r"out\.image_inject(\d+)"):
        n = len(theirs)
        mixed = _mixed(case, recorded, inject)[:n]
        yield name, texture(z_s[:n], mixed, _first(canvas.noise, n)), theirs
    w, theirs = recorded["in.wplus"], recorded["out.image_wplus"]
    yield "out.image_wplus", texture(z_s[: len(w)], w, _first(canvas.noise, len(w))), theirs


@contextmanager
def _outputs(layers: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects what layers give while the context lasts, in the order of the calls."""
    given: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _layer, _inputs, output: given.append(output)) for layer in layers]
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()


def _first(noise: Noise, count: int) -> Noise:
    """The noise of the first samples."""
    return lambda *where: noise(*where)[:count]


def _mixed(case: Case, recorded: Recorded, inject: int) -> Tensor:
    """Styles [B, L + 1, D] as training mixes them."""
    z, nothing = recorded["in.z"], torch.empty(0)
    mix_from = torch.full((len(z),), inject)
    return Latents(nothing, z[:, 0], z[:, 1], mix_from, nothing, nothing, noise=None).styles(case.generator)


def direct(case: Case, recorded: Recorded) -> Quantities:
    """An image that is not square, in one pass."""
    canvas, z = Canvas(case, recorded), recorded["in.z"][:, 0]
    z_l, grid, _ = canvas.window(canvas.cells)
    image, z_s = case.generator(z_l, z, grid, canvas.noise)
    yield "out.coords", grid, recorded["out.coords"]
    yield "out.structure", z_s, recorded["out.structure"]
    yield "out.image", image, recorded["out.image"]


def blockwise(case: Case, recorded: Recorded) -> Quantities:
    """A larger canvas in one style, whole and in blocks."""
    canvas, z = Canvas(case, recorded), recorded["in.z"][:, 0]
    folded = case.generator.texture.bake(case.generator.texture.mapping(z)[0], torch.float32)

    def read(cells: Region) -> Tensor:
        z_l, grid, _ = canvas.window(cells)
        return case.generator.structure(z_l, z, grid)

    yield from _canvas_quantities(case, recorded, canvas, "blockwise", folded, read)


def _canvas_quantities(
    case: Case,
    recorded: Recorded,
    canvas: Canvas,
    section: str,  # of the parameter file
    synthesizer: Callable[..., Tensor],
    read: Callable[[Region], Tensor],
) -> Quantities:
    """The geometry, and the images of a synthesizer, whole and in blocks."""
    yield "in.coords", canvas.window(canvas.cells)[1], recorded["in.coords"]
    yield "geometry", *_geometry(case, canvas, section)
    height, width = case.parameters(section, "target")
    top, left = case.parameters(section, "crop_offset")
    for way, edge in (("whole", max(canvas.pixels.shape)), ("blocks", case.parameters(section, "pixel_step"))):
        image = canvas.draw(synthesizer, read, edge)
        middle = image[..., top : top + height, left : left + width]
        yield f"out.image, {way}", middle, recorded["out.image"]
        for name, (corner,), theirs in recorded.matching(r"out\.meta_corner_(\d+)"):
            yield f"{name}, {way}", image[..., :corner, :corner], theirs


def _geometry(case: Case, canvas: Canvas, section: str) -> tuple[list[int], list[int]]:
    """Sizes of a block's features, steps between blocks, and the canvas: by the layers' rules, and as recorded."""
    cells, step = case.parameters("ts_input_size"), case.parameters(section, "latent_step")
    levels = range(canvas.texture.style_count)
    before = [canvas.before(layer) for layer in levels]
    step_pixels = step * pixels_per_cell(canvas.texture)
    steps = [step_pixels // spacing for _, spacing in before]
    sizes, region = [cells], Interval(0, cells - 1)
    for layer in canvas.texture.layers:
        region = layer.conv.rule.valid_output(region)
        sizes.append(region.size)
    patches = [(size - cells) // step + 1 for size in canvas.cells.shape]
    target = case.parameters(section, "target")
    crop = [(size - inner) // 2 for size, inner in zip(canvas.pixels.shape, target, strict=True)]
    ours = [*sizes[:-1], *sizes[1:], *steps[:-1], *steps[1:], *canvas.pixels.shape, *patches, *crop, step_pixels]
    keys = ("in_feat_sizes", "out_feat_sizes", "in_feat_steps", "out_feat_steps", "meta", "num_steps", "crop_offset")
    theirs = [value for key in keys for value in case.parameters(section, key)]
    return ours, [*theirs, case.parameters(section, "pixel_step")]


def fused_blockwise(case: Case, recorded: Recorded) -> Quantities:
    """A larger canvas whose styles are those of the nearest centres, softened."""
    kind, kernel = (case.parameters("fused_blockwise", key) for key in ("blur_type", "blur_kernel"))
    if kind != "mean" or kernel % 2 == 0:
        raise UserError(f"{case.parameters.path}: blur_type {kind}, blur_kernel {kernel}; only odd means are there")
    canvas = Canvas(case, recorded)
    first = canvas.pixels.rows.first, canvas.pixels.cols.first
    # the public code holds them in float32, and measures from the first pixel of the canvas
    centres = np.float32(case.parameters("fused_blockwise", "style_center_pixels")).astype(float) + first
    weights = SoftMap(nearest_centre(centres), len(centres), canvas.pixels, kernel // 2)
    (top, left), shape = (case.parameters("fused_blockwise", key) for key in ("crop_offset", "target"))
    crop = Region.at(canvas.pixels.rows.first + top, canvas.pixels.cols.first + left, *shape)
    for name, (style,), theirs in recorded.matching(r"fusion\.pixel_map(\d+)_crop"):
        yield name, weights(crop, 1)[style][None, None], theirs
    yield from _map_quantities(canvas, recorded, weights)
    texture, read, w = _fused(case, canvas, recorded, weights)
    yield "out.w", w[None], recorded["out.w"]
    yield from _canvas_quantities(case, recorded, canvas, "fused_blockwise", texture, read)


def _map_quantities(canvas: Canvas, recorded: Recorded, weights: StyleWeights) -> Quantities:
    """The recorded maps of every level."""
    for name, (style,), theirs in recorded.matching(r"fusion\.ss_map(\d+)"):
        yield name, weights(canvas.local, pixels_per_cell(canvas.texture))[style][None, None], theirs
    for name, (layer, style), theirs in recorded.matching(r"fusion\.ts_(\d+)_map(\d+)"):
        yield name, weights(*canvas.before(layer))[style][None, None], theirs


def _fused(
    case: Case, canvas: Canvas, recorded: Recorded, weights: StyleWeights
) -> tuple[Callable[..., Tensor], Callable[[Region], Tensor], Tensor]:
    """The fused texture synthesizer, structure latents by region of cells, and the styles [N, D]."""
    (z,) = recorded["in.z"]
    w = canvas.texture.mapping(z)
    structure = mix_structure(canvas.structure, z, weights, pixels_per_cell(canvas.texture), exact=False)
    texture = mix_texture(canvas.texture, w, weights, torch.float32, exact=False)
    return texture, lambda cells: structure(*canvas.window(cells)), w


@dataclass(frozen=True)
class RecordedWeights:
    """Weights from a pixel map; positions beyond it take those of the nearest pixel."""

    maps: Tensor  # [N, H, W]
    canvas: Region  # pixels

    def __call__(self, region: Region, spacing: int) -> Tensor:
        """Weights [N, h, w] at the centres of features that are `spacing` pixels apart."""
        rows, cols = (
            (spacing * torch.arange(axis.first, axis.last + 1)).clamp(bounds.first, bounds.last) - bounds.first
            for axis, bounds in zip((region.rows, region.cols), (self.canvas.rows, self.canvas.cols), strict=True)
        )
        return self.maps[:, rows[:, None], cols]


def fused_patch(case: Case, recorded: Recorded) -> Quantities:
    """One patch whose styles follow a recorded map."""
    canvas = Canvas(case, recorded)
    maps = torch.cat([value[0] for _, _, value in recorded.matching(r"fusion\.pixel_map(\d+)")])  # [N - 1 or N, H, W]
    if len(maps) == recorded["in.z"].shape[1] - 1:
        maps = torch.cat([maps, 1 - maps.sum(dim=0, keepdim=True)])
    weights = RecordedWeights(maps, canvas.pixels)
    yield from _map_quantities(canvas, recorded, weights)
    texture, read, w = _fused(case, canvas, recorded, weights)
    yield "out.w", w[None], recorded["out.w"]
    yield "in.coords", canvas.window(canvas.cells)[1], recorded["in.coords"]
    yield "out.structure", read(canvas.cells), recorded["out.structure"]
    yield "out.image", canvas.draw(texture, read, max(canvas.pixels.shape)), recorded["out.image"]


def discriminator(case: Case, recorded: Recorded) -> Quantities:
    """Score, coordinates and gradient penalty of a batch of images."""
    images = recorded["in.image"]
    group = minibatch_group(case.parameters("discriminator", "stddev_group"), len(images))
    order = torch.arange(len(images)).view(group, -1).T.flatten()  # ours are groups of consecutive samples
    model = case.checkpoint.model
    model = model | {"discriminator": model["discriminator"] | {"minibatch_group": group}}
    network = build_discriminator(model, images.shape[-1])
    path = case.folder / f"{DISCRIMINATOR}.safetensors"
    network.load_state_dict(discriminator_state(load_pretrained(path), images.shape[-1], str(path)))
    images = images[order].requires_grad_()
    score, guess, _ = network.requires_grad_(False)(images)
    back = order.argsort()
    yield "out.d_patch", score[back][:, None], recorded["out.d_patch"]
    yield "out.ac_coords_pred", guess[back], recorded["out.ac_coords_pred"]
    yield "out.r1", adversarial.r1_penalty(score, images)[None], recorded["out.r1"]
    yield "checkpoint: discriminator", *_worst(case.checkpoint.discriminator, network.state_dict())


def minibatch_group(smallest: int, batch: int) -> int:
    """The public rule: the smallest divisor from `smallest` on that is below the root of the batch, else the batch."""
    return next((group for group in range(smallest, math.ceil(batch**0.5)) if batch % group == 0), batch)


def generator_losses(case: Case, recorded: Recorded) -> Quantities:
    """The losses of the generator stage. The published diversity is not ours; its angles are."""
    real, fake = recorded["adv.real"], recorded["adv.fake"]
    yield "adv.d_loss", adversarial.discriminator_logistic(real, fake)[None], recorded["adv.d_loss"]
    yield "adv.g_loss", adversarial.generator_logistic(fake)[None], recorded["adv.g_loss"]
    guess, label = recorded["ac.pred"], recorded["ac.label"]
    yield "ac.loss_vert_only", adversarial.coordinate(guess, label[:, 0])[None], recorded["ac.loss_vert_only"]
    local = 1 - adversarial.angular_distance(recorded["div.local"]).mean()
    structure = 1 - adversarial.angular_distance(recorded["div.structure"]).mean()
    yield "div.loss, from angles", (1 / (structure / local + 1e-5))[None], recorded["div.loss"]
    penalty, mean = adversarial.path_penalty(recorded["path.lengths"], recorded["path.mean_in"].squeeze())
    yield "path.penalty", penalty[None], recorded["path.penalty"]
    yield "path.mean_out", mean[None], recorded["path.mean_out"]
    canvas, texture, z = Canvas(case, recorded, "pl"), case.generator.texture, recorded["pl.z"][:, 0]
    z_s = case.generator.structure(canvas.z_l, z, recorded["pl.coords"])
    styles = texture.mapping(z)[:, None].repeat(1, texture.style_count, 1).requires_grad_()
    lengths = adversarial.path_lengths(texture(z_s, styles, canvas.noise), styles, recorded["pl.y"])
    yield "pl.lengths", lengths, recorded["pl.lengths"]


class Pyramid(LPIPS):
    """The images that LPIPS is given at each scale; without its networks."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.images: list[Tensor] = []

    def distance(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Keeps the image."""
        self.images.append(reconstruction)
        return torch.zeros(())


def inverter_losses(case: Case, recorded: Recorded) -> Quantities:
    """Losses of the inverter stage."""
    loss = maximum_mean_discrepancy(recorded["mmd.source"], recorded["mmd.target"])
    yield "mmd.loss", loss[None], recorded["mmd.loss"]
    pyramid, image = Pyramid(), recorded["down.in"]
    pyramid(image, image)
    for name, (scale,), theirs in recorded.matching(r"down\.k(\d+)"):
        yield name, pyramid.images[scale], theirs


FILES: dict[str, Callable[[Case, Recorded], Quantities]] = {
    GENERATOR: imported,
    "coords": coordinates,
    "infinitygan_patch_io": patch,
    "infinitygan_direct_io": direct,
    "infinitygan_blockwise_io": blockwise,
    "infinitygan_fused_patch_io": fused_patch,
    "infinitygan_fused_blockwise_io": fused_blockwise,
    "infinitygan_discriminator_io": discriminator,
    "losses_generator": generator_losses,
    "losses_patchinverter": inverter_losses,
}


# The run


def open_case(folder: Path) -> Case:
    """The networks of a folder. UserError where one is missing, or parameters or weights cannot be used."""
    needed = (PARAMETERS, CHECKPOINT, f"{GENERATOR}.safetensors", f"{DISCRIMINATOR}.safetensors")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: no {', '.join(missing)}")
    parameters = Parameters(folder / PARAMETERS)
    names = ("vert_sample_size", "hori_occupy_ratio", "vert_cut_pt")
    constants = {name: parameters("coord", name) for name in names}
    constants = Constants(ts_input_size=parameters("ts_input_size"), **constants)
    checkpoint = read_checkpoint(folder / CHECKPOINT, constants)
    if checkpoint.generator is None or checkpoint.discriminator is None:
        raise UserError(f"{folder / CHECKPOINT}: holds no generator 'g' or no discriminator 'd' as they train")
    path = folder / f"{GENERATOR}.safetensors"
    generator = build_generator(checkpoint.model)
    generator.load_state_dict(generator_state(load_pretrained(path), str(path)))
    return Case(folder, parameters, checkpoint, generator.requires_grad_(False))


def compare(case: Case, name: str) -> tuple[list[Result], list[str]]:
    """Results for a file of the folder, and the names of its tensors that nothing was compared with."""
    path = case.folder / f"{name}.safetensors"
    recorded = Recorded(path, load_pretrained(path))
    quantities = FILES[name](case, recorded)
    results = [Result(name, quantity, relative_error(ours, theirs)) for quantity, ours, theirs in quantities]
    return results, recorded.unseen


def run(folder: Path, show: Callable[[str], None]) -> list[Result]:
    """Results for a whole folder, each shown as it comes. UserError for a folder that cannot be used."""
    results, unseen, name = [], [], PARAMETERS
    try:
        case = open_case(folder)
        for name in FILES:
            if not (folder / f"{name}.safetensors").is_file():
                show(f"not compared: there is no {name}.safetensors")
                continue
            found, left = compare(case, name)
            for result in found:
                show(str(result))
            results += found
            unseen += [f"{name}: {tensor}" for tensor in left]
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{folder}: {name} does not fit: {type(error).__name__}: {reason}") from error
    for tensor in unseen:
        show(f"not compared: {tensor}")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Compare a folder; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    results = run(parser.parse_args(argv).folder, print)
    above = [result for result in results if not result.passed]
    largest = max((result.error for result in results), default=math.inf)
    print(f"{len(results)} quantities, {len(above)} above {TOLERANCE:g}; the largest error is {largest:.1e}")
    return 1 if above or not results else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
