"""Our networks and losses against InfinityGAN's: recorded numbers, to within a relative error of 1e-4.

`golden` holds numbers of its equations in their most literal form. INFINITYGAN_FIXTURES may name a folder of the same
files with numbers that the public code gave, then these are compared as well. In a file, `in.` is given, `mid.` on the
way, `out.` the result. Letters: N styles that are mixed, h/w latent cells, H/W pixels.
"""

import json
import math
import os
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from losses import adversarial
from losses.latent import maximum_mean_discrepancy
from models import build_discriminator, build_generator
from models.geometry import Interval, Region, partition, regions_from
from models.mixing import mix_structure, mix_texture
from scripts.import_infinitygan import Constants, converted, model_of, read_checkpoint, used
from tests.models.public_infinitygan import GOLDEN

TOLERANCE = 1e-4
FOLDERS = [GOLDEN, *(Path(folder) for folder in filter(None, [os.environ.get("INFINITYGAN_FIXTURES")]))]


class Case:
    """The networks of a folder, and the parameters that they were recorded with."""

    def __init__(self, folder):
        self.folder, self.given = folder, json.loads((folder / "infinitygan_hparams.json").read_text())
        generator, self.judge = (
            used(load_file(folder / f"infinitygan_{name}.safetensors"), name)
            for name in ("state_dict", "discriminator_state_dict")
        )
        names = "vert_sample_size", "hori_occupy_ratio", "vert_cut_pt"
        coordinates = {name: self.given["coord"][name] for name in names}
        self.constants = Constants(ts_input_size=self.given["ts_input_size"], **coordinates)
        self.model = model_of(generator, self.judge, self.constants, str(folder))
        self.generator = build_generator(self.model).requires_grad_(False)
        self.generator.load_state_dict(converted(generator, self.generator, "generator"))
        self.structure, self.texture = self.generator.structure, self.generator.texture
        self.grid = self.structure.grid


case_of = cache(Case)


def matching(recorded, pattern):
    """(name, numbers in it, value) of all tensors whose whole names match."""
    for name in sorted(recorded):
        if match := re.fullmatch(pattern, name):
            yield name, [int(group) for group in match.groups()], recorded[name]


class Canvas:
    """The latents and the noise of a file in the absolute frame, where structure cell (0, 0) is the first one."""

    def __init__(self, case, recorded, prefix="in"):
        self.case, self.z_l = case, recorded[f"{prefix}.local"]
        first = case.structure.rule.receptive_field(Interval(0, 0)).first
        self.local = Region.at(first, first, *self.z_l.shape[-2:])
        self.cells = self.local.valid_output(case.structure.rule)
        self.regions = regions_from(self.cells, case.texture.stages)
        self.pixels = self.regions[-1].output_region
        self.drawn = [region for stage in self.regions for region in stage.outputs]
        self.noises = [recorded[f"{prefix}.noise_{layer}"] for layer in range(len(self.drawn))]

    def noise(self, layer, *place):
        return self.noises[layer][(..., *Region.at(*place).slices_in(self.drawn[layer]))]

    def window(self, cells):
        """Local latents and coordinates for a region of structure cells, and the origin of both."""
        local = cells.receptive_field(self.case.structure.rule)
        coordinates = self.case.grid.of_canvas(local, self.local)
        return self.z_l[(..., *local.slices_in(self.local))], coordinates, (local.rows.first, local.cols.first)

    def draw(self, synthesize, read, edge):
        """All pixels in blocks of `edge`; `read` gives structure latents, `synthesize` draws them."""
        image = torch.full((1, 3, *self.pixels.shape), math.nan)
        for rows in partition(self.pixels.rows, edge):
            for cols in partition(self.pixels.cols, edge):
                block = Region(rows, cols)
                z_s = read(block.receptive_field(self.case.texture.rule))
                image[(..., *block.slices_in(self.pixels))] = synthesize(z_s, self.noise, block)
        return image


# Quantities of each file: (name, ours, theirs)


def coordinates(case, recorded):
    for name, (height, width), theirs in matching(recorded, r"test_(\d+)x(\d+)(?:_pano)?"):
        region = Region.at(0, 0, height, width)
        yield name, case.grid.of_canvas(region, region, period=width if name.endswith("pano") else None), theirs
    for name, (height, width, row, col), theirs in matching(recorded, r"test_(\d+)x(\d+)_init_(\d+)_(\d+)"):
        rows = torch.arange(height) - (height - 1) / 2 + row / 2  # the public code keeps half of a start row
        yield name, case.grid.channels(rows[None], (torch.arange(width).float() + col)[None]), theirs
    across = 2 / (case.grid.horizontal_period - 1)
    cell = torch.tensor([case.grid.vertical_slope, across, across])  # gain per cell before tanh, cos and sin
    yield "perturb_range", cell / 2, recorded["perturb_range"]
    row, col, theirs = recorded["train_x_start"], recorded["train_y_start"], recorded["train_coords"]
    jitter = (2 * recorded["train_uniform01"].T - 1) * recorded["perturb_range"] / cell
    yield "train_coords", case.grid.of_patches(row, col, theirs.shape[-1], jitter), theirs
    angles = case.grid.channels(torch.zeros(len(col), 1), col[:, None].float())[:, 1:, 0, 0]
    yield "labels", torch.cat([case.grid.label(row)[:, None], angles], dim=1), recorded["train_ac_coords"]


def patch(case, recorded):
    """Every part of the generator, and styles that are mixed along the layers."""
    canvas, z, texture = Canvas(case, recorded), recorded["in.z"], case.texture
    w = torch.stack([texture.mapping(z[:, k]) for k in range(z.shape[1])], dim=1)
    z_s = case.structure(canvas.z_l, z[:, 0], recorded["in.coords"])
    image = texture(z_s, w[:, 0], canvas.noise)
    for name, ours in (("out.w", w), ("out.structure", z_s), ("out.image_nomix", image)):
        yield name, ours, recorded[name]
    first = lambda *place: canvas.noise(*place)[:1]  # noqa: E731
    stages = [stage.styled(*styles) for stage, *styles in texture.styles(w[:1, 0])]
    for name, (stage,), theirs in matching(recorded, r"mid\.rgb_(\d+)"):
        drawn, _ = texture.draw(stages[: stage + 1], z_s[:1], z_s[:1], first, canvas.regions[: stage + 1])
        yield name, drawn, theirs
    for name, (inject,), theirs in matching(recorded, r"out\.image_inject(\d+)"):
        mixed = torch.stack([w[:1, 0]] * inject + [w[:1, 1]] * (texture.style_count - inject), dim=1)
        yield name, texture(z_s[:1], mixed, first), theirs
    if "in.wplus" in recorded:
        yield "out.image_wplus", texture(z_s[:1], recorded["in.wplus"], first), recorded["out.image_wplus"]


def direct(case, recorded):
    """An image that is not square, in one pass."""
    canvas = Canvas(case, recorded)
    z_l, grid, _ = canvas.window(canvas.cells)
    image, z_s = case.generator(z_l, recorded["in.z"][:, 0], grid, canvas.noise)
    for name, ours in (("out.coords", grid), ("out.structure", z_s), ("out.image", image)):
        yield name, ours, recorded[name]


def blockwise(case, recorded):
    """A larger canvas in one style."""
    canvas, z = Canvas(case, recorded), recorded["in.z"][:, 0]
    baked = case.texture.bake(case.texture.mapping(z)[0], torch.float32)
    read = lambda cells: case.structure(canvas.window(cells)[0], z, canvas.window(cells)[1])  # noqa: E731
    yield from canvas_quantities(canvas, recorded, case.given["blockwise"], baked, read)


def canvas_quantities(canvas, recorded, section, synthesize, read):
    """The images of a canvas, drawn whole and in blocks."""
    yield "in.coords", canvas.window(canvas.cells)[1], recorded["in.coords"]
    yield "size", list(canvas.pixels.shape), section["meta"]
    (top, left), (height, width) = section["crop_offset"], section["target"]
    for way, edge in (("whole", max(canvas.pixels.shape)), ("blocks", section["pixel_step"])):
        image = canvas.draw(synthesize, read, edge)
        yield f"out.image, {way}", image[..., top : top + height, left : left + width], recorded["out.image"]
        for name, (corner,), theirs in matching(recorded, r"out\.meta_corner_(\d+)"):
            yield f"{name}, {way}", image[..., :corner, :corner], theirs


def fused_blockwise(case, recorded):
    """A larger canvas whose styles are those of the nearest centres, softened by a mean."""
    canvas, section = Canvas(case, recorded), case.given["fused_blockwise"]
    rows, cols = (torch.arange(length)[:, None] for length in canvas.pixels.shape)
    nearest = torch.stack([  # theirs measures in whole pixels
        (rows - row).trunc().square() + (cols.T - col).trunc().square() for row, col in section["style_center_pixels"]
    ]).argmin(dim=0)  # fmt: skip
    maps, reach = F.one_hot(nearest).permute(2, 0, 1).double(), section["blur_kernel"] // 2
    maps = F.avg_pool2d(F.pad(maps, (reach,) * 4, mode="replicate"), section["blur_kernel"], stride=1).float()
    texture, read = mixed(case, canvas, recorded, maps)
    yield from canvas_quantities(canvas, recorded, section, texture, read)


def fused_patch(case, recorded):
    """One patch whose styles follow a recorded map."""
    canvas = Canvas(case, recorded)
    maps = torch.cat([value[0] for _, _, value in matching(recorded, r"fusion\.pixel_map(\d+)")])  # [N - 1 or N, H, W]
    if len(maps) < recorded["in.z"].shape[1]:
        maps = torch.cat([maps, 1 - maps.sum(dim=0, keepdim=True)])
    texture, read = mixed(case, canvas, recorded, maps)
    yield "out.structure", read(canvas.cells), recorded["out.structure"]
    yield "out.image", canvas.draw(texture, read, max(canvas.pixels.shape)), recorded["out.image"]


def mixed(case, canvas, recorded, maps):
    """The texture synthesizer in the approximate mixture of styles by a map [N, H, W], and structure latents by region.

    Positions beyond the map take its nearest pixel.
    """

    def weights(region, spacing):
        rows, cols = (
            (spacing * torch.arange(axis.first, axis.last + 1)).clamp(bounds.first, bounds.last) - bounds.first
            for axis, bounds in zip((region.rows, region.cols), (canvas.pixels.rows, canvas.pixels.cols), strict=True)
        )
        return maps[:, rows[:, None], cols]

    (z,) = recorded["in.z"]
    structure = mix_structure(case.structure, z, weights, 2**case.texture.stages, exact=False)
    texture = mix_texture(case.texture, case.texture.mapping(z), weights, torch.float32, exact=False)
    return texture, lambda cells: structure(*canvas.window(cells))


def discriminator(case, recorded):
    images = recorded["in.image"]
    smallest, batch = case.given["discriminator"]["stddev_group"], len(images)
    # the public rule: the smallest divisor from `smallest` on that is below the root of the batch, else the batch
    group = next((n for n in range(smallest, math.ceil(batch**0.5)) if batch % n == 0), batch)
    order = torch.arange(batch).view(group, -1).T.flatten()  # ours are groups of consecutive samples
    settings = case.model["discriminator"] | {"minibatch_group": group}
    network = build_discriminator({"discriminator": settings}, images.shape[-1])
    network.load_state_dict(converted(case.judge, network, "discriminator"))
    images = images[order].requires_grad_()
    score, guess, _ = network.requires_grad_(False)(images)
    back = order.argsort()
    yield "out.d_patch", score[back][:, None], recorded["out.d_patch"]
    yield "out.ac_coords_pred", guess[back], recorded["out.ac_coords_pred"]
    yield "out.r1", adversarial.r1_penalty(score, images)[None], recorded["out.r1"]


def generator_losses(case, recorded):
    """The published diversity is not ours; its angles are."""
    real, fake = recorded["adv.real"], recorded["adv.fake"]
    yield "adv.d_loss", adversarial.discriminator_logistic(real, fake)[None], recorded["adv.d_loss"]
    yield "adv.g_loss", adversarial.generator_logistic(fake)[None], recorded["adv.g_loss"]
    guess, label = recorded["ac.pred"], recorded["ac.label"]
    yield "ac.loss", adversarial.coordinate(guess, label[:, 0])[None], recorded["ac.loss_vert_only"]
    local, structure = (1 - adversarial.angular_distance(recorded[f"div.{k}"]).mean() for k in ("local", "structure"))
    yield "div.loss, from angles", (1 / (structure / local + 1e-5))[None], recorded["div.loss"]
    penalty, mean = adversarial.path_penalty(recorded["path.lengths"], recorded["path.mean_in"].squeeze())
    yield "path.penalty", penalty[None], recorded["path.penalty"]
    yield "path.mean_out", mean[None], recorded["path.mean_out"]
    canvas, z = Canvas(case, recorded, "pl"), recorded["pl.z"][:, 0]
    z_s = case.structure(canvas.z_l, z, recorded["pl.coords"])
    styles = case.texture.mapping(z)[:, None].repeat(1, case.texture.style_count, 1).requires_grad_()
    lengths = adversarial.path_lengths(case.texture(z_s, styles, canvas.noise), styles, recorded["pl.y"])
    yield "pl.lengths", lengths, recorded["pl.lengths"]


def inverter_losses(case, recorded):
    yield "mmd", maximum_mean_discrepancy(recorded["mmd.source"], recorded["mmd.target"])[None], recorded["mmd.loss"]


FILES = {
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


def relative_error(ours, theirs):
    """max |ours - theirs| / max |theirs|; infinite where shapes differ, or where theirs is 0 and ours is not."""
    ours, theirs = (torch.as_tensor(value).detach().double() for value in (ours, theirs))
    if ours.shape != theirs.shape:
        return math.inf
    error, scale = float((ours - theirs).abs().max()), float(theirs.abs().max())
    return error / scale if scale else (0.0 if error == 0 else math.inf)


@pytest.mark.parametrize(
    ("folder", "name"),
    [(folder, name) for folder in FOLDERS for name in FILES if (folder / f"{name}.safetensors").is_file()],
    ids=lambda value: getattr(value, "name", value),
)
def test_recorded_numbers_agree(folder, name):
    tensors = load_file(folder / f"{name}.safetensors")
    recorded = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    errors = {key: relative_error(ours, theirs) for key, ours, theirs in FILES[name](case_of(folder), recorded)}
    print(f"{folder.name} {name}: {max(errors.values()):.1e}")
    assert not {key: error for key, error in errors.items() if not error <= TOLERANCE}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_sizes_follow_from_the_shapes(folder):
    case = case_of(folder)
    given, model = case.given, case.model
    sizes = {
        "global_latent_dim": model["global_dim"], "local_latent_dim": model["local_dim"],
        "ss_n_layers": model["structure"]["layers"], "ss_unfold_radius": model["structure"]["radius"],
        "n_mlp": model["texture"]["mapping_layers"],
        "ts_conv_out_channels": [width for width in model["texture"]["widths"] for _ in range(2)],
        "patch_size": case.texture.rule.valid_output(Interval(0, given["ts_input_size"] - 1)).size,
    }  # fmt: skip
    assert sizes == {name: given[name] for name in sizes}
    if (folder / "infinitygan_best_fid.pth.tar").is_file():
        average = read_checkpoint(folder / "infinitygan_best_fid.pth.tar", case.constants).states["average"]
        assert all(torch.equal(value, average[key]) for key, value in case.generator.state_dict().items())
