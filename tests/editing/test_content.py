"""New content from photographs themselves: blocks, what stays to the last bit, what is copied, what is wrong."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editing import Content, fill, inbetween, outpaint, resample
from inversion import Latents, PatchInverter
from inversion.weight_maps import Boxes, LabelImage
from models.geometry import Interval, Region, blocks
from tests.inversion.conftest import photograph, tiny_model, trunk_inverter
from utils.errors import UserError

MODEL = tiny_model(trunk_inverter())
LEFT, RIGHT = MODEL.invert(photograph(72, 90)), MODEL.invert(photograph(64, 80, seed=1))
BOX = (24, 30, 40, 46)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Montages of 2 or 4 pixels: quick."""
    monkeypatch.setattr("editing.collage.NODES", 6000)


def draw(latents, **options):
    return MODEL.draw(latents, dtype=np.float32, **options)


EDITS = {
    "outpaint": lambda: outpaint(MODEL, LEFT, (91, 110)),
    "outpaint, another photograph": lambda: outpaint(MODEL, LEFT, (72, 110), content=Content(sources=[RIGHT])),
    "outpaint, generated images": lambda: outpaint(MODEL, LEFT, (72, 110), content=Content("both")),
    "inbetween": lambda: inbetween(MODEL, LEFT, RIGHT),
    "inbetween, generated images": lambda: inbetween(MODEL, LEFT, RIGHT, content=Content("both")),
    "resample": lambda: resample(MODEL, LEFT, Boxes([BOX])),
    "fill": lambda: fill(MODEL, LEFT, Boxes([BOX])),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_blocks_and_saved_latents_draw_the_same(edit, tmp_path):
    """To the last bit: the montage is of the whole canvas, whatever is read first."""
    whole, parts = edit(), edit()
    structure = np.array(whole.structure[:, :, :])
    assert np.isfinite(structure).all()
    rows, cols = structure.shape[1:]
    for block in reversed(list(blocks(Region.at(0, 0, rows, cols), (5, 7)))):
        index = (slice(None), *block.slices_in(Region.at(0, 0, rows, cols)))
        assert (parts.structure[index] == structure[index]).all()
    whole.save(tmp_path / "edit.safetensors")
    assert (draw(Latents.load(tmp_path / "edit.safetensors")) == draw(whole)).all()


def reflections(start, stop, edge):
    """A part of an axis, and where it is seen again beyond both ends."""
    return [Interval(start, stop - 1), Interval(1 - stop, -start), Interval(2 * edge - 1 - stop, 2 * edge - 2 - start)]


def reached(box, size):
    """Bool [H, W]: the pixels that cells which see a box, or its reflection beyond the border, reach."""
    encoder, texture = MODEL.networks.encoder.rule, MODEL.generator.texture.rule
    mask, image = np.zeros(size, bool), Region.at(0, 0, *size)
    for rows, cols in product(reflections(box[0], box[2], size[0]), reflections(box[1], box[3], size[1])):
        pixels = Region(rows, cols).affected_output(encoder).affected_output(texture).common(image)
        if pixels:
            mask[pixels.slices_in(image)] = True
    return mask


@settings(max_examples=8, deadline=None)
@given(st.tuples(st.integers(10, 40), st.integers(10, 60), st.integers(1, 16), st.integers(1, 16)), st.integers(0, 99))
def test_beyond_the_reach_of_what_is_taken_out_nothing_changes(place, seed):
    top, left, height, width = place
    box = (top, left, top + height, left + width)
    change = draw(fill(MODEL, LEFT, Boxes([box]), seed)) != draw(LEFT)
    assert not change[~reached(box, LEFT.size)].any() and change[top : box[2], left : box[3]].any()


def copied(made):
    """Rows and columns of all copied pixels of the photograph LEFT, mirrored or not."""
    made.structure[:, :1, :1]
    place, width = made.structure._montage[0], LEFT.size[1]
    factor = made.structure.factor
    rows, cols = (factor * each for each in place[:, place[0] >= 0])
    return rows, np.where(cols >= width, 2 * width - 1 - cols, cols)


def test_what_is_taken_out_is_not_copied(monkeypatch):
    monkeypatch.setattr("editing.collage.NODES", 2**19)
    rows, cols = copied(fill(MODEL, LEFT, Boxes([BOX])))
    assert len(rows) >= 16**2
    assert not ((rows >= BOX[0]) & (rows < BOX[2]) & (cols >= BOX[1]) & (cols < BOX[3])).any()


def test_what_shall_not_be_copied_is_not():
    avoid = np.zeros((72, 90), bool)
    avoid[:, :45] = True
    _, cols = copied(outpaint(MODEL, LEFT, (None, 120), content=Content(avoid=avoid)))
    assert len(cols) and (cols >= 45).all()


def test_large_photographs_are_drawn_by_window(monkeypatch):
    whole, parts = (outpaint(MODEL, LEFT, (101, 110)) for _ in range(2))
    assert whole.structure.factor > 1
    drawn = draw(whole)
    monkeypatch.setattr("editing.collage.WHOLE", 0)
    assert abs(draw(parts, blocks=blocks(Region.at(0, 0, 101, 110), (48, 48))) - drawn).max() < 1e-5


@pytest.mark.parametrize(("width", "low", "high"), [(4, 170, 200), (30, 0, 80)])
def test_a_dark_rim_does_not_go_on_and_a_dark_side_does(monkeypatch, width, low, high):
    """Scans have rims of a few pixels, from which their surroundings differ; of the shipped model, which draws them."""
    monkeypatch.setattr("editing.collage.NODES", 2**19)
    model, image = PatchInverter.from_pretrained(), photograph(72, 90) // 4 + 150
    image[:, -width:] = 10
    beside = model.draw(outpaint(model, model.invert(image), (72, 130), (0, 0)))[:, 91:94]
    assert low < beside.mean() < high


def test_seeds_give_variants_and_images_with_noise_are_generated_on():
    one, two = (draw(outpaint(MODEL, LEFT, seed=seed)) for seed in (0, 1))
    assert (one != two).mean() > 0.2
    assert outpaint(MODEL, LEFT).noise is None
    noisy = outpaint(MODEL, MODEL.generate(64, 72), content=Content(fit=Content().fit.__class__(steps=1)))
    assert noisy.noise is not None


WRONG = {
    "the mask takes everything out": lambda: fill(MODEL, LEFT, LabelImage(np.ones((2, 2), bool), LEFT.size)),
    "the mask takes nothing out": lambda: fill(MODEL, LEFT, LabelImage(np.zeros((2, 2), bool), LEFT.size)),
    r"fill.box: \[0, 0, 73, 9\], but the image has 72 x 90": lambda: fill(MODEL, LEFT, Boxes([(0, 0, 73, 9)])),
    "nothing is left to copy from": lambda: outpaint(MODEL, LEFT, content=Content(avoid=np.ones((1, 1), bool))),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_is_one_line(said):
    with pytest.raises(UserError, match=rf"^[^\n]*{said}[^\n]*$"):
        WRONG[said]()


@pytest.mark.parametrize("source", ["photograph", "both"])
def test_models_without_a_trunk_do_not_copy(model, right, source):
    with pytest.raises(UserError, match=f"{source} needs a checkpoint with a trunk"):
        outpaint(model, right, content=Content(source))


def test_a_generated_image_gives_what_the_photograph_lacks():
    grey = MODEL.invert(np.full((72, 90, 3), 128, np.uint8) + photograph(72, 90) // 64)
    made = outpaint(MODEL, grey, (72, 180), content=Content("both", avoid=np.arange(90)[None] < 80))
    made.structure[:, :1, :1]
    places = made.structure._montage[0]
    assert (places[1] >= 2 * made.structure.width).any() and (places[1] < 2 * made.structure.width).any()


def test_colours_change_on_the_way_between_photographs():
    """No step is left where what is copied from one side meets what is copied from the other."""
    dark, bright = (MODEL.invert(photograph(64, 80, seed) // 3 + add) for seed, add in ((1, 10), (2, 150)))
    between = draw(inbetween(MODEL, dark, bright, (None, 160 + 30 * MODEL.cell)))[:, 80:-80].mean((0, 2))
    start, middle, end = np.array_split(between, 3)
    assert start.mean() + 0.1 < middle.mean() < end.mean() - 0.1
