"""fuse.py, outpaint.py, inbetween.py and resample.py as a user calls them, beside inversions and generated images.

Which pixels an edit may change is asked of geometry: those that a cell, or a value of noise, that is new reaches.
"""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import fuse
import inbetween
import numpy as np
import outpaint
import PIL.Image
import pytest
import resample
from easydict import EasyDict
from inversion.outputs import Pixels
from inversion.tool import Tool
from safetensors.torch import load_file

import generate
import infer
from inversion import outputs
from models.geometry import Chain, Interval, Region
from models.weights import export
from tests.conftest import lines, write_inverter
from tests.inversion.conftest import tiny_inverter

CELL = 8  # pixels
TOLERANCE = 1e-5
FLOAT32 = "infer.dtype=float32"
STEPS = "complete.steps=3"
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def keep_floats(monkeypatch):
    """Each picture also appears as NAME.npy, before it is rounded."""
    draw_picture = Tool.draw_picture

    def draw_both(tool, scene, path):
        draw_picture(tool, scene, path)
        floats = replace(tool, options=EasyDict(tool.options, save_float=True))
        region, plan = Region.at(0, 0, *scene.size), tool.plan(scene.size)
        pixels = Pixels.open(region, None, plan.pixels, save_float=True)
        floats.draw(scene, pixels, plan, lambda count: None)
        np.save(path.with_suffix(".npy"), pixels.read(region))

    monkeypatch.setattr(Tool, "draw_picture", draw_both)


@pytest.fixture
def photographs(tmp_path):
    """a.png, 64 x 83, and b.jpg, 48 x 70."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in {"a.png": (64, 83), "b.jpg": (48, 70)}.items():
        PIL.Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def edit(command):
    """Runs a command that must succeed, in float32; its output folder."""

    def run(main, *arguments, **keywords):
        code, err, output = command(main, FLOAT32, *arguments, **keywords)
        assert code == 0, err
        return output

    return run


@pytest.fixture
def invert(edit):
    """The plain inversion of a photograph [H, W, 3], float32."""

    def run(path, *arguments):
        output = edit(infer.main, "--input", path, "infer.save_float=true", *arguments, output="plain")
        return np.load(output / "float" / f"{path.stem}.npy")

    return run


def png(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


def pictures(folder):
    """Names of the pictures right below a folder."""
    return sorted(path.stem for path in folder.glob("*.png"))


def own(edge, canvas, offset):
    """Which positions of latent cells, as pixels along one axis, are those of a photograph on a canvas."""

    def test(positions):
        first = -np.inf if offset == 0 else offset
        last = np.inf if offset + edge == canvas else offset + edge - 1
        return (positions >= first) & (positions <= last)

    return test


def box(region):
    """Bool [h, w] of positions: whether the nearest pixel of an image of `size` is in a region."""

    def changed(rows, cols):
        return ((rows >= region[0]) & (rows < region[2]))[:, None] & ((cols >= region[1]) & (cols < region[3]))

    return changed


def reached(size, rule, spacing, changed):
    """Bool [H, W]: the pixels that `rule` draws from a feature that changed.

    `changed` takes pixel rows [h] and columns [w] of features and gives bool [h, w].
    """
    needs, centres = [], []
    for edge in size:
        windows = [rule.receptive_field(Interval(p, p)) for p in range(edge)]
        features = np.arange(windows[0].first, windows[-1].last + 1)
        needs.append(np.array([(features >= first) & (features <= last) for first, last in windows], float))
        centres.append(spacing * features)
    return needs[0] @ changed(*centres).astype(float) @ needs[1].T > 0


def texture_rule():
    return tiny_inverter().generator.texture.rule


def two_colours(path, *shape, fmt=None):
    """Black, and bright in the right half."""
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[:, shape[1] // 2 :] = (255, 200, 255)
    PIL.Image.fromarray(pixels).save(path, fmt)
    return path


def assert_same_in_blocks(edit, main, name, *arguments):
    """That a picture drawn in blocks of 8 and of 40 pixels is the one that is drawn at once."""
    whole, *others = (
        edit(main, *arguments, f"infer.block={block}", output=f"block-{block}") for block in ("whole", "8", "40")
    )
    for other in others:
        assert abs(np.load(whole / f"{name}.npy") - np.load(other / f"{name}.npy")).max() <= TOLERANCE
        assert abs(png(whole / f"{name}.png") - png(other / f"{name}.png")).max() <= 1


GENERATED = ["generate.height=40", "generate.width=70", "generate.seed=4"]
CENTRES = "fuse.centres=[[0.2,0.3],[0.9,0.5],[0.1,0.9]]"
MASK = "fuse.mask={mask}"


@pytest.mark.parametrize("modulation", ["exact", "fast"])
@pytest.mark.parametrize("generated", [True, False], ids=["generated", "photograph"])
@pytest.mark.parametrize(("where", "styles"), [(CENTRES, "[1,2,3]"), (MASK, "[2,3]")], ids=["centres", "mask"])
def test_fused_blocks_equal_the_whole(edit, photographs, tmp_path, modulation, generated, where, styles):
    where = where.format(mask=two_colours(tmp_path / "mask.png", 4, 7))
    source = GENERATED if generated else ["--input", photographs / "b.jpg", "infer.noise=field"]
    arguments = [*source, where, f"fuse.styles={styles}", "fuse.blur=9", f"fuse.modulation={modulation}"]
    assert_same_in_blocks(edit, fuse.main, "seed-4-fused" if generated else "b-fused", *arguments)


def test_one_style_is_no_fusion(edit, invert, photographs):
    generated = edit(generate.main, *GENERATED, output="generated")
    fused = edit(fuse.main, *GENERATED, "fuse.styles=[4]")
    assert abs(np.load(generated / "seed-4.npy") - np.load(fused / "seed-4-fused.npy")).max() <= TOLERANCE
    path = photographs / "a.png"
    fused = edit(fuse.main, "--input", path, "fuse.styles=[own]")
    assert abs(invert(path) - np.load(fused / "a-fused.npy")).max() <= TOLERANCE


HALVES = {
    "mask": ((24, 240), MASK),  # dark is the first style
    "by default": ((24, 240), "fuse.centres=null"),  # from left to right
    "one above the other": ((240, 24), "fuse.centres=[[0.25,0.5],[0.75,0.5]]"),
}


@pytest.mark.parametrize("modulation", ["exact", "fast"])
@pytest.mark.parametrize(("size", "where"), HALVES.values(), ids=HALVES)
def test_each_style_has_its_place(edit, tmp_path, modulation, size, where):
    """What is drawn from one style alone is as in an image of this style."""
    options = [f"generate.height={size[0]}", f"generate.width={size[1]}", f"fuse.modulation={modulation}"]
    where, blur = where.format(mask=two_colours(tmp_path / "mask.png", 1, 2)), 4
    both, *alone = (
        np.load(edit(fuse.main, *options, f"fuse.styles={styles}", *more, output=styles) / "seed-0-fused.npy")
        for styles, more in (("[1,2]", [where, f"fuse.blur={blur}"]), ("[1]", []), ("[2]", []))
    )
    generator = tiny_inverter().generator
    rule = Chain((generator.structure.rule, generator.texture.rule))
    first = box((-np.inf, -np.inf, np.inf, 121 + blur) if size[1] > size[0] else (-np.inf, -np.inf, 121 + blur, np.inf))
    second = box((-np.inf, 119 - blur, np.inf, np.inf) if size[1] > size[0] else (119 - blur, -np.inf, np.inf, np.inf))
    for far, single, other in ((second, *alone), (first, *alone[::-1])):
        inside = ~reached(size, rule, CELL, far)
        assert inside.sum() > 24 * 50
        assert abs(both - single)[inside].max() <= TOLERANCE < 0.01 < abs(both - other)[inside].max()


def test_the_own_style_has_its_place(edit, invert, photographs, tmp_path):
    path, mask = photographs / "a.png", two_colours(tmp_path / "mask.png", 1, 2)
    output = edit(fuse.main, "--input", path, f"fuse.mask={mask}", "fuse.styles=[own,1]", "fuse.blur=2")
    difference = abs(np.load(output / "a-fused.npy") - invert(path))
    inside = ~reached((64, 83), texture_rule(), CELL, box((-np.inf, 41 - 2, np.inf, np.inf)))
    assert inside.sum() > 64 * 10 and difference[inside].max() <= TOLERANCE
    assert (difference[:, 50:] > 1e-3).mean() > 0.9


def test_styles_of_files(edit, photographs):
    """An image, its latent file, and the input itself give the same style."""
    stored = edit(fuse.main, "--input", photographs / "b.jpg", "fuse.styles=[1]", output="first") / "inversions"
    fused = [
        np.load(edit(fuse.main, "--input", photographs / "b.jpg", f"fuse.styles=[7,{style}]", output=n) / "b-fused.npy")
        for style, n in ((photographs / "b.jpg", "image"), (stored / "b.safetensors", "file"), ("own", "own"))
    ]
    assert (fused[0] == fused[1]).all() and (fused[0] == fused[2]).all()
    again = edit(fuse.main, "--input", stored / "b.safetensors", "fuse.styles=[7,own]", output="again")
    assert (np.load(again / "b-fused.npy") == fused[0]).all()


def test_fused_images_are_functions_of_their_seed(edit):
    output = edit(fuse.main, "generate.height=20", "generate.width=30", "generate.count=2", "fuse.styles=[1,2]")
    assert pictures(output) == ["seed-0-fused", "seed-1-fused"]
    assert abs(np.load(output / "seed-0-fused.npy") - np.load(output / "seed-1-fused.npy")).max() > 0.01


PLACES = {
    "middle": ((64, 83), (128, 160), (None, None), (32, 32)),
    "left border": ((64, 83), (80, 120), (8, 0), (8, 0)),
    "right border": ((64, 83), (90, 123), (None, 40), (8, 40)),
    "corner": ((64, 83), (104, 131), (40, 48), (40, 48)),
    "first corner": ((64, 83), (110, 140), (0, 0), (0, 0)),
    "whole height": ((64, 83), (64, 140), (0, None), (0, 24)),
    "default size": ((64, 83), (None, None), (None, None), (32, 40)),
}


def canvas_options(canvas, place):
    names = ("height", "width", "top", "left")
    return [f"outpaint.{n}={v}" for n, v in zip(names, (*canvas, *place), strict=True) if v is not None]


@pytest.mark.parametrize("noise", ["infer.noise=none", "infer.noise=field"])
@pytest.mark.parametrize(("size", "canvas", "place", "found"), PLACES.values(), ids=PLACES)
def test_an_outpainted_photograph_stays(edit, invert, photographs, size, canvas, place, found, noise):
    """Beyond the reach of the border it is its plain inversion, and each seed gives other surroundings."""
    path = photographs / "a.png"
    output = edit(outpaint.main, "--input", path, *canvas_options(canvas, place), "outpaint.count=2",
                  "outpaint.seed=5", STEPS, noise)  # fmt: skip
    assert pictures(output) == ["a-seed-5", "a-seed-6"]
    drawn = [np.load(output / f"{name}.npy") for name in pictures(output)]
    canvas = tuple(given or 2 * edge for given, edge in zip(canvas, size, strict=True))
    assert drawn[0].shape[:2] == canvas
    rows, cols = (own(*along) for along in zip(size, canvas, found, strict=True))
    new = reached(canvas, texture_rule(), CELL, lambda y, x: ~(rows(y)[:, None] & cols(x)))
    inside = np.zeros(canvas, bool)
    inside[found[0] : found[0] + size[0], found[1] : found[1] + size[1]] = True
    kept = inside & ~new
    assert kept.sum() > 500 and not (~new & ~inside).any()
    plain = np.full_like(drawn[0], np.nan)
    plain[inside] = invert(path, noise).reshape(-1, 3)
    for picture in drawn:
        assert abs(picture - plain)[kept].max() <= TOLERANCE
    assert (drawn[0] == drawn[1])[kept].all() and (abs(drawn[0] - drawn[1]) > 0.01)[~inside].mean() > 0.5


def test_outpainted_blocks_equal_the_whole(edit, photographs):
    """The fit, too, does not depend on the blocks."""
    arguments = ["--input", photographs / "b.jpg", "outpaint.width=110", STEPS, "complete.fade=3"]
    assert_same_in_blocks(edit, outpaint.main, "b-seed-0", *arguments)


def test_outpainted_latents_draw_the_same_picture(edit, photographs):
    output = edit(outpaint.main, "--input", photographs / "b.jpg", "outpaint.count=2", STEPS, "complete.noise=none")
    assert sorted(path.name for path in (output / "latents").iterdir()) == [
        "b-seed-0.safetensors", "b-seed-1.safetensors"
    ]  # fmt: skip
    again = edit(infer.main, "--latents", output / "latents", output="again")
    for name in pictures(output):
        assert (png(again / "reconstruction" / f"{name}.png") == png(output / f"{name}.png")).all()
    known = load_file(output / "inversions" / "b.safetensors")["structure"]
    # on the canvas of 96 x 140 the photograph begins at cell (3, 4); both files begin two cells before their pixels
    held = load_file(output / "latents" / "b-seed-1.safetensors")["structure"][:, 2 + 3 : 2 + 9, 2 + 4 : 2 + 13]
    assert (held == known[:, 2 : 2 + 6, 2 : 2 + 9]).all()


def test_a_photograph_its_latents_and_its_folder_are_outpainted_alike(edit, photographs):
    arguments = [STEPS, "outpaint.width=100"]
    single = edit(outpaint.main, "--input", photographs / "a.png", *arguments, output="single")
    stored = edit(outpaint.main, "--input", single / "inversions" / "a.safetensors", *arguments, output="stored")
    folder = edit(outpaint.main, "--input", photographs, *arguments, output="folder")
    assert pictures(folder) == ["a-seed-0", "b-seed-0"] and not (stored / "inversions").exists()
    pixels = [np.load(output / "a-seed-0.npy") for output in (single, stored, folder)]
    assert (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all()


@pytest.mark.parametrize(
    ("main", "arguments", "done"),
    [
        (fuse.main, ["fuse.styles=[own,1]"], ["a-fused", "b-fused"]),
        (outpaint.main, ["outpaint.width=90"], ["a-seed-0", "b-seed-0"]),
        (resample.main, ["resample.region=[8,8,30,30]"], ["a-resampled-1", "b-resampled-1"]),
    ],
    ids=["fuse", "outpaint", "resample"],
)
def test_a_damaged_image_is_named_and_the_others_are_done(command, photographs, main, arguments, done):
    (photographs / "aa.png").write_text("this is a text file")
    steps = [] if main is fuse.main else ["complete.steps=1"]
    code, err, output = command(main, "--input", photographs, *arguments, *steps)
    assert code == 1 and len(lines(err)) == 1 and "aa.png" in lines(err)[0]
    assert pictures(output) == done


INBETWEEN = {
    "default size": ([], 64, 230),  # half as much again as 83 + 70 is 229; the right one begins at a multiple of 8
    "given size": (["inbetween.height=81", "inbetween.width=166"], 81, 166),
    "smallest": (["inbetween.width=166"], 64, 166),
}


@pytest.mark.parametrize("noise", ["infer.noise=none", "infer.noise=field"])
@pytest.mark.parametrize(("options", "height", "width"), INBETWEEN.values(), ids=INBETWEEN)
def test_both_ends_of_a_canvas_stay(edit, invert, photographs, options, height, width, noise):
    paths = photographs / "a.png", photographs / "b.jpg"
    output = edit(inbetween.main, "--input", *paths, *options, "inbetween.count=2", STEPS, noise)
    assert pictures(output) == ["a-b-seed-0", "a-b-seed-1"]
    drawn = [np.load(output / f"{name}.npy") for name in pictures(output)]
    assert drawn[0].shape[:2] == (height, width)
    top = (height - 48) // 2 // CELL * CELL
    middle = (height - 64) // 2 // CELL * CELL
    for path, place in ((paths[0], (middle, 0)), (paths[1], (top, width - 70))):
        plain = invert(path, noise)
        size = plain.shape[:2]
        rows, cols = (own(*along) for along in zip(size, (height, width), place, strict=True))
        new = reached((height, width), texture_rule(), CELL, lambda y, x, r=rows, c=cols: ~(r(y)[:, None] & c(x)))
        window = tuple(slice(start, start + edge) for start, edge in zip(place, size, strict=True))
        kept = ~new[window]
        assert kept.sum() > 400
        for picture in drawn:
            assert abs(picture[window] - plain)[kept].max() <= TOLERANCE
    between = (slice(None), slice(90, width - 75))
    assert (abs(drawn[0] - drawn[1])[between] > 0.01).mean() > 0.5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 30), (30, 1)])
def test_photographs_smaller_than_a_cell(edit, tmp_path, height, width):
    path = tmp_path / "small.png"
    PIL.Image.new("RGB", (width, height), "green").save(path)
    for main, arguments, size in (
        (fuse.main, [], (height, width)),
        (outpaint.main, [STEPS], (2 * height, 2 * width)),
        (resample.main, [STEPS, "resample.region=[0,0,1,1]"], (height, width)),
        (inbetween.main, [path, STEPS], (height, max(2 * width * 3 // 2, 17))),
    ):
        output = edit(main, "--input", path, *arguments, output=main.__module__)
        (name,) = pictures(output)
        drawn = np.load(output / f"{name}.npy")
        assert np.isfinite(drawn).all()
        assert drawn.shape[0] == size[0] and size[1] <= drawn.shape[1] < size[1] + CELL


def test_a_generator_alone_edits_what_it_generated(edit, tmp_path):
    inverter, path = tiny_inverter(), tmp_path / "generator.safetensors"
    export(path, inverter.model, {"generator": inverter.generator}, 0)
    generated = edit(generate.main, *GENERATED, "generate.save_latents=true", output="generated", given=path)
    stored = generated / "latents" / "seed-4.safetensors"
    for main, arguments in (
        (fuse.main, ["fuse.styles=[own,2]"]), (outpaint.main, [STEPS]), (inbetween.main, [stored, STEPS]),
        (resample.main, [STEPS, "resample.region=[0,0,9,9]"]),
    ):  # fmt: skip
        output = edit(main, "--input", stored, *arguments, output=main.__module__, given=path)
        assert len(pictures(output)) == 1


def test_latents_of_an_edit_keep_its_grain(edit, photographs):
    """They draw the same picture again, and what a further edit does not reach stays as it was."""
    first = edit(outpaint.main, "--input", photographs / "a.png", STEPS, "infer.noise=field", "infer.seed=3")
    stored = first / "latents" / "a-seed-0.safetensors"
    again = edit(infer.main, "--latents", stored, "infer.save_float=true", output="again")
    before = np.load(first / "a-seed-0.npy")
    assert (np.load(again / "float" / "a-seed-0.npy") == before).all()
    plain = edit(infer.main, "--latents", stored, "infer.save_float=true", "infer.noise=none", output="plain")
    assert abs(np.load(plain / "float" / "a-seed-0.npy") - before).max() > 0.01
    region = (0, 0, 40, 50)
    second = edit(resample.main, "--input", stored, f"resample.region={list(region)}", STEPS, output="second")
    stored, name = second / "latents" / "a-seed-0-resampled-1.safetensors", "a-seed-0-resampled-1"
    after = np.load(second / f"{name}.npy")
    may = changed_pixels(before.shape[:2], "structure", generated=False, region=region)
    may |= changed_pixels(before.shape[:2], "noise", generated=False, region=region)
    assert (after == before)[~may].all() and (after != before)[may].mean() > 0.5
    third = edit(infer.main, "--latents", stored, "infer.save_float=true", output="third")
    assert (np.load(third / "float" / f"{name}.npy") == after).all()


@pytest.mark.parametrize("main", [outpaint.main, fuse.main])
def test_latents_of_a_damaged_grain_are_one_line(command, edit, photographs, main):
    stored = edit(fuse.main, "--input", photographs / "a.png", "fuse.styles=[own]") / "inversions" / "a.safetensors"
    content = stored.read_bytes()
    assert content.count(b'"noise": "null"') == 1
    stored.write_bytes(content.replace(b'"noise": "null"', b'"noise": "[12]"'))
    code, err, output = command(main, "--input", stored, *([STEPS] if main is outpaint.main else []), output="damaged")
    assert code == 2 and len(lines(err)) == 1 and "a.safetensors: not a latent file of this program" in err
    assert pictures(output) == []


def test_generated_latents_keep_their_grain(edit, tmp_path):
    output = edit(generate.main, *GENERATED, "generate.save_latents=true")
    stored, before = output / "latents" / "seed-4.safetensors", np.load(output / "seed-4.npy")
    fused = edit(fuse.main, "--input", stored, "fuse.styles=[own]", output="fused")
    assert abs(np.load(fused / "seed-4-fused.npy") - before).max() <= TOLERANCE
    mask = two_colours(tmp_path / "mask.png", 1, 2)
    resampled = edit(resample.main, "--input", stored, f"resample.mask={mask}", "resample.what=noise", output="noise")
    after = np.load(resampled / "seed-4-resampled-1.npy")
    same = (after == before).all(2)
    assert same[:, :20].all() and same[:, 50:].mean() < 0.1


def test_blocks_between_equal_the_whole(edit, photographs):
    sources = ["--input", photographs / "a.png", photographs / "b.jpg"]
    assert_same_in_blocks(edit, inbetween.main, "a-b-seed-0", *sources, "inbetween.width=190", STEPS, "complete.fade=3")


def test_large_canvases_are_drawn_on_disk(edit, photographs, monkeypatch):
    """As those in memory, to the last bit; latents of either kind are taken, and nothing else stays."""
    arguments = [STEPS, "outpaint.width=100", "infer.block=24"]
    memory = edit(outpaint.main, "--input", photographs / "a.png", *arguments, output="memory")
    monkeypatch.setattr(outputs, "RESUMABLE", 100)
    disk = edit(outpaint.main, "--input", photographs / "a.png", *arguments, output="disk")
    inverted = edit(infer.main, "--input", photographs / "a.png", "infer.latents=zarr", "block=24", output="stored")
    stored = inverted / "latents" / "a.zarr"
    again = edit(outpaint.main, "--input", stored, *arguments, "infer.format=tiff", output="again")
    assert (png(memory / "a-seed-0.png") == png(disk / "a-seed-0.png")).all()
    assert (png(memory / "a-seed-0.png") == png(again / "a-seed-0.tif")).all()
    assert sorted(path.name for path in disk.iterdir()) == ["a-seed-0.npy", "a-seed-0.png", "inversions", "latents"]
    assert [path.name for path in (disk / "latents").iterdir()] == ["a-seed-0.safetensors"]
    between = edit(inbetween.main, "--input", stored, photographs / "b.jpg", STEPS, output="between")
    fused = edit(fuse.main, "--input", stored, f"fuse.styles=[own,{stored}]", output="fused")
    assert pictures(between) == ["a-b-seed-0"] and pictures(fused) == ["a-fused"]


def test_two_photographs_of_one_name(edit, photographs):
    (photographs / "more").mkdir()
    other = photographs / "more" / "a.png"
    PIL.Image.new("RGB", (50, 40), "green").save(other)
    output = edit(inbetween.main, "--input", photographs / "a.png", other, STEPS)
    assert pictures(output) == ["a-left-a-right-seed-0"]
    stored = [output / "inversions" / f"a-{side}.safetensors" for side in ("left", "right")]
    assert load_file(stored[0])["structure"].shape != load_file(stored[1])["structure"].shape
    again = edit(inbetween.main, "--input", *stored, STEPS, output="again")
    names = "a-left-a-right-seed-0.npy"
    assert (np.load(again / names) == np.load(output / names)).all()


REGION = (13, 21, 30, 47)


def changed_pixels(size, what, generated, region=REGION):
    """Bool [H, W]: the pixels that geometry lets the resampling of a region reach."""
    generator = tiny_inverter().generator

    def changed(rows, cols):
        return box(region)(np.clip(rows, 0, size[0] - 1), np.clip(cols, 0, size[1] - 1))

    if what == "structure" and generated:
        return reached(size, Chain((generator.structure.rule, generator.texture.rule)), CELL, changed)
    if what == "structure":
        return reached(size, generator.texture.rule, CELL, changed)
    layers = generator.texture.layers
    found = np.zeros(size, bool)
    for k in range(len(layers)):
        after = Chain(tuple(layer.conv.rule for layer in layers[k + 1 :]))
        found |= reached(size, after, generator.texture.spacing(k), changed)
    return found


@pytest.mark.parametrize("what", ["structure", "noise"])
@pytest.mark.parametrize("generated", [True, False], ids=["generated", "photograph"])
def test_resampling_changes_only_what_the_region_reaches(edit, invert, photographs, what, generated):
    options = [f"resample.region={list(REGION)}", f"resample.what={what}", "resample.count=2", STEPS]
    if generated:
        source, name = ["generate.height=72", "generate.width=85", "generate.seed=4"], "seed-4"
        before = np.load(edit(generate.main, *source, output="before") / "seed-4.npy")
    else:
        noise = "infer.noise=field"
        source, name = ["--input", photographs / "a.png", noise], "a"
        before = invert(photographs / "a.png", noise)
    output = edit(resample.main, *source, *options)
    assert pictures(output) == [f"{name}-resampled-1", f"{name}-resampled-2"]
    drawn = [np.load(output / f"{name}.npy") for name in pictures(output)]
    may = changed_pixels(before.shape[:2], what, generated)
    assert 400 < may.sum() < 0.9 * may.size
    inside = np.zeros_like(may)
    inside[REGION[0] : REGION[2], REGION[1] : REGION[3]] = True
    for picture in drawn:
        assert (picture == before)[~may].all()
        assert (picture != before)[may & inside].mean() > 0.9
    assert (drawn[0] != drawn[1])[may & inside].mean() > 0.9


@pytest.mark.parametrize("what", ["structure", "noise"])
@pytest.mark.parametrize("generated", [True, False], ids=["generated", "photograph"])
def test_resampled_blocks_equal_the_whole(edit, photographs, tmp_path, what, generated):
    mask = two_colours(tmp_path / "mask.png", 9, 5)
    source = GENERATED if generated else ["--input", photographs / "b.jpg"]
    name = "seed-4-resampled-1" if generated else "b-resampled-1"
    options = [f"resample.mask={mask}", f"resample.what={what}", STEPS, "complete.fade=3"]
    assert_same_in_blocks(edit, resample.main, name, *source, *options)


@pytest.mark.parametrize("what", ["structure", "noise"])
@pytest.mark.parametrize("generated", [True, False], ids=["generated", "photograph"])
def test_a_full_mask_draws_the_image_of_the_other_seed(edit, invert, photographs, tmp_path, what, generated):
    source = GENERATED if generated else ["--input", photographs / "b.jpg", "infer.noise=field"]
    name = "seed-4-resampled-9.npy" if generated else "b-resampled-9.npy"
    mask = tmp_path / "white.png"
    PIL.Image.new("RGB", (3, 2), "white").save(mask)
    options = [f"resample.mask={mask}", f"resample.what={what}", "resample.seed=9", STEPS]
    drawn = np.load(edit(resample.main, *source, *options) / name)
    if generated:
        before = np.load(edit(generate.main, *GENERATED, output="before") / "seed-4.npy")
    else:
        before = invert(photographs / "b.jpg", "infer.noise=field")
    assert (drawn != before).mean() > 0.9
    if what == "noise" and not generated:
        other = invert(photographs / "b.jpg", "infer.noise=field", "infer.seed=9")
        assert abs(drawn - other).max() <= TOLERANCE


FUSE, RESAMPLE = (fuse.main, []), (resample.main, ["resample.region=[0,0,20,20]", STEPS])
OUTPAINT, INBETWEEN_AB = (outpaint.main, [STEPS]), (inbetween.main, ["--input", "{a}", "{b}", STEPS])
WRONG = [
    (*FUSE, ["fuse.stiles=[1]"], "fuse.styles"),
    (*FUSE, ["fuse.styles=[]"], "a list of 1 to 256"),
    (*FUSE, ["fuse.styles=[-1]"], "fuse.styles"),
    (*FUSE, ["fuse.styles=[own,1]"], "there is no --input"),
    (*FUSE, ["fuse.styles=[1,{tmp}/none.png]"], "none.png"),
    (*FUSE, ["fuse.styles=[1,{tmp}/none.safetensors]"], "none.safetensors"),
    (*FUSE, ["fuse.styles=[1,{other}]"], "encoded by the weights"),
    (*FUSE, ["fuse.styles=[1,2]", "fuse.centres=[[0.5,0.5]]"], "1 centres for 2 styles"),
    (*FUSE, ["fuse.styles=[1]", "fuse.centres=[[0.5,1.5]]"], "fuse.centres"),
    (*FUSE, ["fuse.styles=[1]", "fuse.centres=[[0.5,0.5]]", "fuse.mask={mask}"], "both set"),
    (*FUSE, ["fuse.mask={tmp}/none.png"], "none.png"),
    (*FUSE, ["fuse.mask={mask}"], "colours: 2, styles (fuse.styles): 4"),
    (*FUSE, ["--input", "{a}", "fuse.styles=[1,2,3]", "fuse.mask={mask}"], "colours: 2, styles (fuse.styles): 3"),
    (*FUSE, ["--input", "{a}", "fuse.mask={tmp}/none.png"], "none.png"),
    (*FUSE, ["infer.region=0,0,8,8"], "is not read here"),
    (*FUSE, ["infer.save_float=true"], "is not read here"),
    (*FUSE, ["infer.comparison=true"], "is not read here"),
    (*FUSE, ["infer.latents=none"], "is not read here"),
    (*FUSE, ["infer.format=webp", "generate.width=16384"], "webp holds edges of at most 16383 pixels"),
    (*OUTPAINT, ["--input", "{tmp}/none.zarr"], "none.zarr"),
    (*FUSE, ["--input", "{folder}", "--output", "{folder}"], "is the input folder"),
    (*FUSE, ["--input", "{folder}", "fuse.mask={tmp}/none.png"], "none.png"),
    (*FUSE, ["generate.panorama=true"], "generate.panorama"),
    (*FUSE, ["--input", "{tmp}/none.png"], "none.png"),
    (*FUSE, ["--input", "{other}"], "encoded by the weights"),
    (*FUSE, ["--output", "{a}"], "a.png"),
    (*FUSE, ["outpaint.seed=1"], "'outpaint' is not read here"),
    (*OUTPAINT, ["--input", "{a}", "outpaint.top=3"], "multiples of 8 px"),
    (*OUTPAINT, ["--input", "{a}", "outpaint.left=90"], "outpaint.left"),
    (*OUTPAINT, ["--input", "{a}", "outpaint.top=80"], "from 0 to 64"),
    (*OUTPAINT, ["--input", "{a}", "outpaint.width=82"], "a has 83"),
    (*OUTPAINT, ["--input", "{a}", "outpaint.top=-8"], "outpaint.top"),
    (*OUTPAINT, ["--input", "{other}"], "encoded by the weights"),
    (*OUTPAINT, ["--input", "{tmp}/none.png"], "none.png"),
    (*OUTPAINT, ["--input", "{empty}"], "no JPEG, PNG"),
    (*OUTPAINT, ["--input", "{a}", "--output", "{a}"], "a.png"),
    (*OUTPAINT, ["--input", "{folder}", "--checkpoint", "{generator}"], "holds no encoder"),
    (*OUTPAINT, ["--input", "{a}", "complete.band=0"], "complete.band"),
    (*OUTPAINT, ["--input", "{a}", "--checkpoint", "{generator}"], "holds no encoder"),
    (*INBETWEEN_AB, ["inbetween.width=158"], "allowed: 166 px, or more by a multiple of 8"),
    (*INBETWEEN_AB, ["inbetween.width=170"], "inbetween.width"),
    (*INBETWEEN_AB, ["inbetween.height=63"], "a photograph has 64"),
    (*INBETWEEN_AB, ["--input", "{a}", "{tmp}/none.png"], "none.png"),
    (*INBETWEEN_AB, ["--input", "{a}", "{other}"], "encoded by the weights"),
    (*INBETWEEN_AB, ["--checkpoint", "{generator}"], "holds no encoder"),
    (*INBETWEEN_AB, ["--output", "{a}"], "a.png"),
    (resample.main, [], [], "one of them"),
    (*RESAMPLE, ["resample.mask={mask}"], "one of them"),
    (*RESAMPLE, ["--input", "{a}", "resample.region=[0,0,65,20]"], "but a has 64 x 83 pixels"),
    (*RESAMPLE, ["--input", "{a}", "resample.region=[2,2,8,8]"], "no latent cell of a has its centre"),
    (*RESAMPLE, ["resample.region=[2,2,8,8]"], "no latent cell of seed-0 has its centre"),
    (*RESAMPLE, ["--input", "{a}", "resample.what=noise", "complete.noise=none"], "nothing would change"),
    (*RESAMPLE, ["resample.region=null", "resample.mask={black}"], "white nowhere"),
    (*RESAMPLE, ["generate.height=16"], "but seed-0 has 16 x 512 pixels"),
    (*RESAMPLE, ["resample.region=[0,0,0,20]"], "resample.region"),
    (*RESAMPLE, ["resample.region=null", "resample.mask={tmp}/none.png"], "none.png"),
    (*RESAMPLE, ["--input", "{a}", "resample.region=null", "resample.mask={tmp}/none.png"], "none.png"),
    (*RESAMPLE, ["--input", "{folder}", "resample.region=null", "resample.mask={tmp}/none.png"], "none.png"),
    (*RESAMPLE, ["generate.panorama=true"], "generate.panorama"),
    (*RESAMPLE, ["--input", "{other}"], "encoded by the weights"),
    (*RESAMPLE, ["--input", "{a}", "--checkpoint", "{generator}"], "holds no encoder"),
    (*RESAMPLE, ["--output", "{a}"], "a.png"),
    (*RESAMPLE, ["--config", "{tmp}/none.yaml"], "none.yaml"),
]


@pytest.fixture
def files(photographs, tmp_path, edit):
    """What the arguments of a wrong command may name."""
    inverter = tiny_inverter()
    export(tmp_path / "generator.safetensors", inverter.model, {"generator": inverter.generator}, 0)
    inverter.encoder.project[0].bias.data += 1
    write_inverter(tmp_path / "changed.safetensors", inverter)
    edit(infer.main, "--input", photographs / "b.jpg", output="other", given=tmp_path / "changed.safetensors")
    (tmp_path / "empty").mkdir()
    black = tmp_path / "black.png"
    PIL.Image.new("L", (4, 4)).save(black)
    return {
        "tmp": tmp_path, "a": photographs / "a.png", "b": photographs / "b.jpg", "empty": tmp_path / "empty",
        "folder": photographs,
        "mask": two_colours(tmp_path / "mask.png", 3, 3), "black": black,
        "generator": tmp_path / "generator.safetensors",
        "other": tmp_path / "other" / "latents" / "b.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize(("main", "options", "wrong", "said"), WRONG)
def test_a_wrong_command_gets_one_line(command, files, main, options, wrong, said):
    before = contents(files["tmp"])
    code, err, _ = command(main, *(text.format(**files) for text in (*options, *wrong)))
    assert code == 2 and len(err.strip().splitlines()) == 1
    assert err.startswith("error: ") and said in err
    assert contents(files["tmp"]) == before


def contents(folder):
    """Every file below a folder, by path; inversions that a command has made before it went wrong do not count."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "inversions")
    return {path: path.read_bytes() for path in paths}


# Sizes that tiny networks draw at once, by config: overrides, and the pictures that come of each command.
SMALL = {
    "fuse": (["generate.height=24", "generate.width=80", "fuse.blur=9"], 1),
    "panorama": (["generate.height=24", "generate.width=64"], 1),
    "outpaint": (["complete.steps=2"], 3),
    "inbetween": (["complete.steps=2"], 2),
    "resample": (["generate.height=104", "generate.width=120", "complete.steps=2"], 4),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_config_runs_as_its_head_says(edit, tmp_path, name):
    path, (small, count) = ROOT / "configs" / "edit" / f"{name}.yaml", SMALL[name]
    for word in ("PHOTO.png", "LEFT.png", "RIGHT.png"):
        PIL.Image.new("RGB", (120, 104), "red").save(tmp_path / word)
    head = re.findall(r"^# +(python .*)$", path.read_text(), re.MULTILINE)
    assert head
    for k, command in enumerate(map(shlex.split, head)):
        place = command.index("--output")
        words = command[2:place] + command[place + 2 :]
        words = [str(tmp_path / f"{word}.png") if word.isupper() else word for word in words]
        words[words.index("--config") + 1] = path
        main = {"fuse.py": fuse, "generate.py": generate, "outpaint.py": outpaint, "inbetween.py": inbetween,
                "resample.py": resample}[command[1]].main  # fmt: skip
        if "--input" in words:
            small = [word for word in small if not word.startswith("generate.")]
        output = edit(main, *words, *small, output=str(k))
        assert len(pictures(output)) == count


def test_every_config_has_been_run():
    assert {path.stem for path in (ROOT / "configs" / "edit").glob("*.yaml")} == set(SMALL)
