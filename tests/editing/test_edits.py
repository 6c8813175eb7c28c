"""Edits as functions of latents: what stays, what changes, and that they follow each other.

Which pixels an edit may change is asked of geometry: those that a cell, or a value of noise, that is new reaches.
"""

from dataclasses import replace

import numpy as np
import pytest

from editing import Content, fuse, inbetween, outpaint, resample
from editing.completion import FitOptions
from inversion import Latents
from inversion.noise import FieldNoise
from inversion.weight_maps import Boxes, LabelImage
from models.geometry import Chain, Interval, Region, blocks
from tests.inversion.conftest import photograph
from utils.errors import UserError

CELL = 8  # pixels
FAR = 1000  # features
TOLERANCE = 1e-5
FIT = Content("generator", fit=FitOptions(steps=3, fade=3))
BOX = (13, 21, 30, 47)
CENTRES = [(0.2, 0.3), (0.9, 0.5), (0.1, 0.9)]


def draw(model, latents, **options):
    return model.draw(latents, dtype=np.float32, **options)


def world(model, seed=4):
    return model.generate(72, 85, seed)


def halves(size):
    """Labels 0 and 1 of an image of `size`, left and right."""
    return LabelImage(np.array([[0, 1]], np.uint8), size)


def features(box, size, spacing):
    """The features centred in a box (top, left, bottom, right), or beyond the image's edges that it touches."""
    rows, cols = (
        Interval(-FAR if first == 0 else -(-first // spacing), FAR if last == edge else (last - 1) // spacing)
        for first, last, edge in zip(box[:2], box[2:], size, strict=True)
    )
    return Region(rows, cols)


def marked(size, region):
    """Bool [H, W]: whether the pixels of an image lie in a region."""
    mask, image = np.zeros(size, bool), Region.at(0, 0, *size)
    if common := region.common(image):
        mask[common.slices_in(image)] = True
    return mask


def reached_by_noise(model, size, box):
    """Bool [H, W]: the pixels that other texture noise in a box may change."""
    texture, found = model.generator.texture, np.zeros(size, bool)
    for k in range(len(texture.layers)):
        after = Chain(tuple(layer.conv.rule for layer in texture.layers[k + 1 :]))
        found |= marked(size, features(box, size, texture.spacing(k)).affected_output(after))
    return found


def reached(model, latents, box, structure=True):
    """Bool [H, W]: the pixels that the resampling of a box may change."""
    generator, noise = model.generator, reached_by_noise(model, latents.size, box)
    if not structure:
        return noise
    cells = features(box, latents.size, CELL)
    if hasattr(latents.structure, "local"):  # generated: local latents change, and no noise
        return marked(latents.size, cells.affected_output(Chain((generator.structure.rule, generator.texture.rule))))
    return marked(latents.size, cells.affected_output(generator.texture.rule)) | noise


EDITS = {
    "fuse centres": lambda m, a, b: fuse(m, world(m), [m.style(n) for n in (1, 2, 3)], CENTRES, blur=9),
    "fuse mask, fast": lambda m, a, b: fuse(m, world(m), [a.style, m.style(3)], halves((72, 85)), blur=9, exact=False),
    "outpaint fused": lambda m, a, b: outpaint(m, fuse(m, a, [a.style, b.style], blur=9), (90, 130), content=FIT),
    "outpaint panorama": lambda m, a, b: outpaint(m, m.generate(56, 80, panorama=True), content=FIT),
    "inbetween": lambda m, a, b: inbetween(m, a, b, content=FIT),
    "resample photograph": lambda m, a, b: resample(m, a, halves(a.size), content=FIT),
    "resample its noise": lambda m, a, b: resample(m, a, halves(a.size), structure=False),
    "resample generated": lambda m, a, b: resample(m, world(m), halves((72, 85))),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_blocks_and_saved_latents_draw_the_same(model, left, right, edit, tmp_path):
    """The fit, too, does not depend on what is drawn first."""
    whole, parts, window = (edit(model, left, right) for _ in range(3))
    pixels = draw(model, whole)
    assert pixels.shape == (*whole.size, 3) and np.isfinite(pixels).all()
    todo = blocks(Region.at(0, 0, *whole.size), (21, 40))
    assert abs(draw(model, parts, blocks=todo) - pixels).max() <= TOLERANCE
    assert abs(draw(model, window, region=(40, 33, 48, 70)) - pixels[40:48, 33:70]).max() <= TOLERANCE
    parts.save(tmp_path / "edit.safetensors")
    assert (draw(model, Latents.load(tmp_path / "edit.safetensors")) == pixels).all()


UPRIGHT = [(0.25, 0.5), (0.75, 0.5)]
CASES = [(halves((24, 240)), True), (None, False), (UPRIGHT, True)]


@pytest.mark.parametrize(("where", "exact"), CASES, ids=["mask", "by default", "upright"])
def test_each_style_has_its_place(model, where, exact):
    """What is drawn from one style alone is as in an image of this style."""
    size, blur = (240, 24) if where is UPRIGHT else (24, 240), 4
    latents, styles = model.generate(*size), [model.style(1), model.style(2)]
    both = draw(model, fuse(model, latents, styles, where, blur=blur, exact=exact))
    alone = [draw(model, fuse(model, latents, [style], exact=exact)) for style in styles]
    rule = Chain((model.generator.structure.rule, model.generator.texture.rule))
    for k, (start, end) in enumerate([(0, 120 - blur), (121 + blur, 240)]):
        box = (start, 0, end, 24) if where is UPRIGHT else (0, start, 24, end)
        kept = marked(size, features(box, size, CELL).valid_output(rule))
        assert kept.sum() > 24 * 50
        assert abs(both - alone[k])[kept].max() <= TOLERANCE < 0.01 < abs(both - alone[1 - k])[kept].max()


def test_a_photograph_keeps_its_structure_and_its_own_style_its_place(model, left):
    for latents in (world(model), left):  # one style is no fusion
        assert abs(draw(model, fuse(model, latents, [latents.style])) - draw(model, latents)).max() <= TOLERANCE
    change = abs(draw(model, fuse(model, left, [left.style, model.style(1)], blur=2)) - draw(model, left))
    kept = marked(left.size, features((0, 0, 64, 40), left.size, CELL).valid_output(model.generator.texture.rule))
    assert kept.sum() > 64 * 10 and change[kept].max() <= TOLERANCE and (change[:, 50:] > 1e-3).mean() > 0.9


def assert_stays(model, drawn, latents, canvas, at, least):
    """That an image at (row, column) of canvases stays where nothing new reaches it."""
    box = (*at, at[0] + latents.size[0], at[1] + latents.size[1])
    kept = marked(canvas, features(box, canvas, CELL).valid_output(model.generator.texture.rule))
    inside = marked(canvas, Region.at(*at, *latents.size))
    assert kept.sum() > least and not (kept & ~inside).any()
    before = np.zeros((*canvas, 3), np.float32)
    before[inside] = draw(model, latents).reshape(-1, 3)
    for pixels in drawn:
        assert pixels.shape[:2] == canvas and abs(pixels - before)[kept].max() <= TOLERANCE
    assert (drawn[0] == drawn[1])[kept].all()


PLACES = {
    "left border": ("noise", (80, 120), (8, 0), (8, 0)),
    "right border": ("no noise", (90, 123), (None, 40), (8, 40)),
    "whole height": ("two styles", (64, 140), (0, None), (0, 24)),
    "default size": ("noise", (None, None), (None, None), (32, 40)),
}


@pytest.mark.parametrize(("kind", "size", "asked", "at"), PLACES.values(), ids=PLACES)
def test_an_outpainted_image_stays(model, left, kind, size, asked, at):
    """Beyond the reach of the border, and each seed gives other surroundings."""
    latents = replace(left, noise=None) if kind == "no noise" else left
    latents = fuse(model, left, [left.style, model.style(1)], blur=9) if kind == "two styles" else latents
    made = [outpaint(model, latents, size, asked, seed, content=FIT) for seed in (5, 6)]
    canvas, drawn = made[0].size, [draw(model, each) for each in made]
    assert canvas == tuple(edge or 2 * own for edge, own in zip(size, left.size, strict=True))
    assert_stays(model, drawn, latents, canvas, at, 500)
    outside = ~marked(canvas, Region.at(*at, *left.size))
    assert (abs(drawn[0] - drawn[1]) > 0.01)[outside].mean() > 0.5


# half as much again as 83 + 70 is 229; the right one begins at a multiple of 8
SIZES = [((None, None), (64, 230)), ((81, 166), (81, 166))]


@pytest.mark.parametrize(("size", "canvas"), SIZES, ids=["default size", "smallest"])
def test_both_ends_of_a_canvas_stay(model, left, right, size, canvas):
    drawn = [draw(model, inbetween(model, left, right, size, seed, content=FIT)) for seed in (0, 1)]
    for latents, start in ((left, 0), (right, canvas[1] - 70)):
        assert_stays(model, drawn, latents, canvas, ((canvas[0] - latents.size[0]) // 2 // CELL * CELL, start), 400)
    assert (abs(drawn[0] - drawn[1])[:, 90 : canvas[1] - 75] > 0.01).mean() > 0.5


@pytest.mark.parametrize("structure", [True, False], ids=["structure", "noise"])
@pytest.mark.parametrize("generated", [True, False], ids=["generated", "photograph"])
def test_resampling_changes_only_what_the_region_reaches(model, left, structure, generated):
    latents = world(model) if generated else left
    before, may = draw(model, latents), reached(model, latents, BOX, structure)
    made = [resample(model, latents, Boxes([BOX]), seed, structure=structure, content=FIT) for seed in (1, 2)]
    one, two = (draw(model, each) for each in made)
    assert 400 < may.sum() < 0.9 * may.size
    box = slice(BOX[0], BOX[2]), slice(BOX[1], BOX[3])
    for pixels, other in ((one, before), (two, before), (one, two)):
        assert (pixels == other)[~may].all() and (pixels != other)[box].mean() > 0.9


def test_a_full_mask_draws_the_image_of_the_other_seed(model, left):
    everywhere = LabelImage(np.ones((2, 3), bool), (72, 85))
    found = resample(model, replace(world(model), noise=None), everywhere, 9)
    other = model.generate(72, 85, 9, style=model.style(4), noise=False)
    assert (draw(model, found) == draw(model, other)).all()
    for structure in (False, True):
        found = resample(model, left, replace(everywhere, size=left.size), 9, structure=structure, content=FIT)
        other = replace(found if structure else left, noise=FieldNoise(9))
        assert abs(draw(model, found) - draw(model, other)).max() <= TOLERANCE


def test_every_region_of_several_is_made_anew(model, left):
    after = draw(model, resample(model, left, Boxes([(0, 0, 16, 16), (40, 40, 64, 83)]), structure=False))
    for before in (draw(model, left), draw(model, replace(left, noise=None))):
        assert (after != before)[:16, :16].mean() > 0.9 and (after != before)[40:, 40:].mean() > 0.9


def test_edits_follow_each_other(model, left, right):
    """What a further edit does not reach stays to the last bit, whatever made it."""
    box = (0, 0, 40, 50)
    for latents in (
        outpaint(model, left, content=FIT),
        inbetween(model, left, right, content=FIT),
        fuse(model, left, [left.style, model.style(1)], blur=5),
        resample(model, left, Boxes([BOX]), content=FIT),
        resample(model, world(model), Boxes([(48, 60, 72, 85)])),
        fuse(model, resample(model, world(model), Boxes([BOX])), [model.style(4), model.style(5)]),
    ):
        before, after = draw(model, latents), draw(model, resample(model, latents, Boxes([box]), 7, content=FIT))
        may = reached(model, latents, box)
        assert (after == before)[~may].all() and (after != before)[may].mean() > 0.5 and not may.all()


@pytest.mark.parametrize("size", [(1, 1), (1, 30)])
def test_photographs_smaller_than_a_cell(model, size):
    latents, (height, width) = model.invert(photograph(*size)), size
    for made, expected in (
        (fuse(model, latents, [model.style(1), latents.style]), size),
        (outpaint(model, latents, content=FIT), (2 * height, 2 * width)),
        (resample(model, latents, Boxes([(0, 0, 1, 1)]), content=FIT), size),
        (inbetween(model, latents, latents, content=FIT), (height, {1: 17, 30: 94}[width])),
    ):
        assert made.size == expected and np.isfinite(draw(model, made)).all()


WRONG = {
    "encoded by the weights other": lambda m, a, b: outpaint(m, replace(a, model="other")),
    "fuse.centres: 2 centres for 1 styles": lambda m, a, b: fuse(m, a, [a.style], [(0, 0), (1, 1)]),
    "1 styles, but a label 1": lambda m, a, b: fuse(m, a, [a.style], halves(a.size)),
    "varies over space itself": lambda m, a, b: fuse(m, a, [fuse(m, a, [a.style]).style]),
    "fuse: a panorama would no longer close": lambda m, a, b: fuse(m, m.generate(8, 16, panorama=True), [a.style]),
    "resample: a panorama would": lambda m, a, b: resample(m, m.generate(8, 16, panorama=True), Boxes([(0, 0, 8, 8)])),
    "outpaint.width: 82 px, but the image has 83": lambda m, a, b: outpaint(m, a, (None, 82)),
    "outpaint.top: 3; allowed: multiples of 8 px": lambda m, a, b: outpaint(m, a, at=(3, None)),
    "from 0 to 83": lambda m, a, b: outpaint(m, a, at=(None, 88)),
    "outpaint.top: -8": lambda m, a, b: outpaint(m, a, at=(-8, None)),
    "inbetween.height: 63 px": lambda m, a, b: inbetween(m, a, b, (63, None)),
    "allowed: 166 px, or more by a multiple of 8": lambda m, a, b: inbetween(m, a, b, (None, 158)),
    "takes images of one style each": lambda m, a, b: inbetween(m, a, fuse(m, b, [b.style])),
    "the image has 64 x 83 pixels": lambda m, a, b: resample(m, a, Boxes([(0, 0, 65, 20)])),
    "no latent cell has its centre inside": lambda m, a, b: resample(m, a, Boxes([(2, 2, 8, 8)])),
    "nothing would change": lambda m, a, b: resample(m, b, Boxes([BOX]), structure=False, content=Content(noise=False)),
}


def test_what_is_wrong_is_one_line(model, left, right):
    for said, edit in WRONG.items():
        with pytest.raises(UserError, match=rf"^[^\n]*{said}[^\n]*$"):
            edit(model, left, right)
