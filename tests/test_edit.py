"""edit.py as a user calls it: photographs, folders, latents and generated images; what is wrong; what is left alone."""

import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from PIL.ExifTags import Base

import edit
import generate
from editing import film
from editing.verbs import VERBS, Verb
from images.reading import open_image
from inversion import Latents, PatchInverter, commands, runs
from inversion.noise import FieldNoise
from models.weights import export
from tests.conftest import write_inverter
from tests.inversion.conftest import photograph, tiny_inverter
from utils import schema
from utils.files import lock_folder

EXAMPLES = Path(__file__).parent.parent / "configs" / "edit"
SMALL = {  # options of each verb that tiny networks take no time for, and the ends of the results' names
    "fuse": (["styles=[own,2]", "fuse.blur=9"], ["fused"]),
    "style": (["styles=2"], ["styled"]),
    "outpaint": (["width=100", "complete.steps=1", "count=2"], ["seed-0", "seed-1"]),
    "inbetween": (["seed=3", "steps=1"], ["seed-3"]),
    "chain": (
        [
            "edits=[{fuse: {styles: [own, 2], blur: 9}}, {outpaint: {width: 100, seed: 1}, complete: {steps: 1}}, "
            "{resample: {box: [0, 0, 20, 20]}, complete: {steps: 1}}]"
        ],
        ["edited"],
    ),
    "resample": (["box=0,0,20,20", "complete.steps=1", "resample.seed=5"], ["resampled-5"]),
    "fill": (["box=8,16,24,40", "complete.steps=1"], ["filled-0"]),
}
GENERATED = ["generate.height=40", "generate.width=70", "generate.seed=4"]


@pytest.fixture
def photographs(tmp_path):
    """a.png, 64 x 83, and b.jpg, 48 x 70."""
    (tmp_path / "photographs").mkdir()
    paths = [tmp_path / "photographs" / name for name in ("a.png", "b.jpg")]
    for path, size in zip(paths, [(64, 83), (48, 70)], strict=True):
        PIL.Image.fromarray(photograph(*size)).save(path)
    return paths


@pytest.fixture
def run(command, photographs):
    """Runs a verb, by default with the photographs it takes; returns the output folder and the lines of stderr."""

    def start(verb, *arguments, code=0, **keywords):
        if "--input" not in arguments and not any(str(word).startswith("generate.") for word in arguments):
            arguments = ["--input", *photographs[: VERBS[verb].images], *arguments]
        small = SMALL[verb][0] if verb in SMALL else []
        found, err, output = command(main_of(verb), "infer.dtype=float32", *small, *arguments, **keywords)
        assert found == code, err
        return output, err.strip().splitlines()

    return start


def main_of(verb):
    """edit.py with its first argument."""
    return lambda arguments: edit.main([verb, *arguments])


def names_of(verb, *stems):
    """The names of results."""
    return [f"{stem}-{ending}" for stem in stems for ending in SMALL[verb][1]]


def pictures(folder):
    """Names of the pictures right below a folder."""
    return sorted(path.stem for path in folder.glob("*.png"))


def png(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


def contents(folder):
    """Every file below a folder, by path; inversions do not count."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "inversions")
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.mark.parametrize("verb", SMALL)
def test_results_and_their_names(run, photographs, checkpoint, verb):
    """A picture of each edit, latents that draw it again, and the photographs' own, which give the same again."""
    single, _ = run(verb, "infer.noise=field", "infer.seed=3", output="single")
    stems = ["a", "b"][: VERBS[verb].images]
    names, stored = names_of(verb, "-".join(stems)), sorted((single / "inversions").iterdir())
    expected = [form.format(name) for form in ("{}.png", "latents/{}.safetensors") for name in names]
    assert [str(path) for path in sorted(contents(single))] == expected
    model = PatchInverter.from_pretrained(checkpoint, device="cpu", dtype="float32")
    for name in names:
        latents = Latents.load(single / "latents" / f"{name}.safetensors")
        assert (png(single / f"{name}.png") == model.draw(latents)).all()
    assert [path.stem for path in stored] == stems and Latents.load(stored[0]).noise == FieldNoise(3)
    again, _ = run(verb, "--input", *stored, output="again")
    assert contents(again) == contents(single) and not (again / "inversions").exists()


@pytest.mark.parametrize("verb", SMALL)
def test_photographs_in_a_model_with_a_trunk(run, trunk_checkpoint, verb):
    """What is new comes from them; saved latents draw the same picture."""
    made, _ = run(verb, output="made", given=trunk_checkpoint)
    names = names_of(verb, "-".join(["a", "b"][: VERBS[verb].images]))
    model = PatchInverter.from_pretrained(trunk_checkpoint, device="cpu", dtype="float32")
    for name in names:
        assert (png(made / f"{name}.png") == model.draw(Latents.load(made / "latents" / f"{name}.safetensors"))).all()
    again, _ = run(verb, "--input", *sorted((made / "inversions").iterdir()), output="again", given=trunk_checkpoint)
    assert contents(again) == contents(made)


@pytest.mark.parametrize("verb", ["fuse", "outpaint", "resample"])
def test_a_folder(run, photographs, verb):
    """As each image by itself; what is damaged is named, and results inside the folder are no images to edit."""
    single, _ = run(verb, output="single")
    folder = photographs[0].parent
    (folder / "aa.png").write_text("this is a text file")
    for _ in range(2):
        output, err = run(verb, "--input", folder, output="photographs/out", code=1)
        assert len(err) == 1 and err[0].startswith("failed: ") and "aa.png" in err[0]
        assert pictures(output) == names_of(verb, "a", "b")
    for name in names_of(verb, "a"):
        assert (png(output / f"{name}.png") == png(single / f"{name}.png")).all()


def test_a_style_of_a_chain_needs_no_list(run):
    chained, _ = run("chain", "edits=[{style: {styles: 2}}]", output="chained")
    styled, _ = run("style", output="styled")
    assert (png(chained / "a-edited.png") == png(styled / "a-styled.png")).all()


def test_a_chain_is_its_edits_one_after_the_other(run):
    chained, _ = run("chain", output="chained")
    fused, _ = run("fuse", output="fused")
    wider = ["width=100", "seed=1", "count=1"]
    outpainted, _ = run("outpaint", "--input", *(fused / "latents").iterdir(), *wider, output="outpainted")
    resampled, _ = run("resample", "--input", *(outpainted / "latents").iterdir(), "seed=1", output="resampled")
    assert (png(chained / "a-edited.png") == png(next(resampled.glob("*.png")))).all()
    assert not (chained / "inversions" / "a-edited.safetensors").exists()


@pytest.mark.parametrize("verb", SMALL)
def test_a_region_of_a_result(run, verb):
    """The same pixels as those of the whole, and no latents."""
    whole, _ = run(verb, output="whole")
    part, _ = run(verb, "infer.region=3,10,40,62", output="part")
    for path in whole.glob("*.png"):
        drawn = png(part / f"{path.stem}-3-10-40-62.png")
        assert drawn.shape == (37, 52, 3) and abs(drawn - png(path)[3:40, 10:62]).max() <= 1
    assert not (part / "latents").exists() and len(pictures(part)) == len(pictures(whole))


def test_what_is_wrong_with_an_image_names_it(run, photographs):
    """Before it is inverted; the others of a folder are done."""
    output, err = run("outpaint", "--input", photographs[0].parent, "height=50", code=1)
    said = f"{photographs[0]}: outpaint.height: 50 px, but the image has 64; allowed: 64 or more"
    assert pictures(output) == ["b-seed-0", "b-seed-1"] and err == [f"failed: {said}"]
    assert [path.stem for path in (output / "inversions").iterdir()] == ["b"]
    output, err = run("outpaint", "height=50", output="single", code=2)
    assert err == [f"error: {said}"] and not list(output.iterdir())


def test_generated_images(run, command, tmp_path):
    """A generator alone will do, also for the saved latents of what it generated."""
    inverter, given = tiny_inverter(), tmp_path / "generator.safetensors"
    export(given, inverter.model, {"generator": inverter.generator}, 0)
    options = [*GENERATED, "infer.dtype=float32", "save_latents=true"]
    plain = command(generate.main, *options, output="plain", given=given)[2]
    for verb in SMALL.keys() - {"fill"}:  # which has to know what cells see
        stored = [plain / "latents" / "seed-4.safetensors"] * VERBS[verb].images
        again, _ = run(verb, "--input", *stored, output=verb, given=given)
        assert len(pictures(again)) == len(SMALL[verb][1])
        if VERBS[verb].generates:
            output, _ = run(verb, *GENERATED, "generate.count=2", output=f"{verb}-2", given=given)
            assert pictures(output) == names_of(verb, "seed-4", "seed-5")


def test_several_inputs(run, photographs):
    """As each by itself; what is damaged is named."""
    folder = photographs[0].parent / "more"
    folder.mkdir()
    shutil.copy(photographs[0], folder / "c.jfif")
    (folder / "d.png").write_text("no image")
    output, err = run("fuse", "--input", photographs[0], folder, "blur=5", "--input", photographs[1], code=1)
    assert pictures(output) == names_of("fuse", "a", "b", "c") and len(err) == 1 and "d.png" in err[0]


def test_styles_and_masks_of_files(run, photographs, tmp_path):
    """An image, its latent file, and the input itself give the same style."""
    PIL.Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "mask.png")
    mask, stored = f"mask={tmp_path / 'mask.png'}", run("fuse", output="first")[0] / "inversions" / "a.safetensors"
    found = [png(run("fuse", f"styles=[7,{style}]", mask, output=str(k))[0] / "a-fused.png")
             for k, style in enumerate((photographs[0], stored, "own"))]  # fmt: skip
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
    output, _ = run("resample", "box=null", mask, "what=noise")
    plain = png(run("fuse", "styles=[own]", output="plain")[0] / "a-fused.png")
    change = abs(png(output / "a-resampled-5.png") - plain)
    assert change[:, :20].max() <= 1 and (change > 0)[:, 60:].mean() > 0.5


def test_layers_of_photographs_and_of_generated_images(run, trunk_checkpoint):
    """The mixture draws again, and is none where its style is the image's own."""
    for given, name in (([], "a"), (GENERATED, "seed-4")):
        pictures = {}
        for style in ("own", 2):
            output, _ = run("mix", *given, f"styles={style}", "layers=[0,1]", output=f"{style}", given=trunk_checkpoint)
            pictures[style] = png(output / f"{name}-mixed.png")
        drawn, _ = run("style", "--input", output / "latents" / f"{name}-mixed.safetensors", "strength=0",
                       output="again", given=trunk_checkpoint)  # fmt: skip
        assert (png(drawn / f"{name}-mixed-styled.png") == pictures[2]).all()
        assert abs(pictures[2] - pictures["own"]).mean() > 1


def test_a_saved_style_is_the_mean_of_images(run, photographs, tmp_path, monkeypatch):
    """And counts, by its name, as their mean does; a damaged image among them is named, and left out."""
    monkeypatch.chdir(tmp_path)
    (photographs[0].parent / "c.png").write_text("no image")
    _, err = run("save-style", "--input", photographs[0].parent, output="styles/both.safetensors", code=1)
    assert (
        len(err) == 1 and "c.png" in err[0] and [path.name for path in Path("styles").iterdir()] == ["both.safetensors"]
    )
    a, b = photographs
    for verb in ("style", "fuse"):
        named, _ = run(verb, "styles=both", output=f"named-{verb}")
        if verb == "style":
            given, _ = run(verb, f"styles=[{a},{b}]", output="given")
            assert (png(named / "a-styled.png") == png(given / "a-styled.png")).all()
    before = contents(tmp_path)
    (tmp_path / "linked" / "latents").parent.mkdir()
    (tmp_path / "linked" / "latents").symlink_to(tmp_path / "styles")
    shutil.copy("styles/both.safetensors", "styles/a-styled.safetensors")
    _, err = run("style", "styles=a-styled", output="linked", code=2)
    assert "would overwrite the input" in err[0]
    _, err = run("save-style", "--input", a, output="photographs/a.png", code=2)
    assert "would overwrite the input" in err[0] and contents(tmp_path).items() >= before.items()


def test_two_photographs_of_one_name(run, photographs, tmp_path):
    other = tmp_path / "a.jpg"
    PIL.Image.new("RGB", (50, 40), "green").save(other)
    for left, size in ((photographs[0], (64, 83)), (other, (40, 50))):
        output, _ = run("inbetween", "--input", left, other)
        stored = [output / "inversions" / f"a-{side}.safetensors" for side in ("left", "right")]
        assert pictures(output) == ["a-left-a-right-seed-3"]
        assert [Latents.load(path).size for path in stored] == [size, (40, 50)]


def test_large_images_are_worked_on_on_the_disk(run, monkeypatch):
    """As those in memory, to the last bit; and in other formats."""
    memory, _ = run("outpaint", "infer.block=24", output="memory")
    for module in (commands, runs):
        monkeypatch.setattr(module, "HELD", 100)
    disk, _ = run("outpaint", "infer.block=24", "format=tiff", output="disk")
    assert (png(memory / "a-seed-0.png") == png(disk / "a-seed-0.tif")).all()
    assert sorted(path.name for path in disk.iterdir()) == ["a-seed-0.tif", "a-seed-1.tif", "inversions", "latents"]


RESULTS = [
    ("fuse", "--input {a}", "a-fused.png"), ("outpaint", "--input {a}", "a-seed-1.tif"),
    ("inbetween", "--input {a} {b}", "a-b-seed-3.png"), ("resample", "--input {a}", "latents/a-resampled-5.zarr"),
    ("outpaint", "--input {a}", "inversions/a.safetensors"),
    ("fill", "--input {b} box=null mask={a}", "b-filled-0.png"),
    ("outpaint", "--input {b} complete.sources=[{a}]", "b-seed-0.png"),
    ("inbetween", "--input {b} {a}", "inversions/b.safetensors"),
    ("pan", "--input {a}", "a-pan.mp4"), ("interpolate", "--input {a} {b}", "a-b-interpolated.png"),
    ("interpolate", "--input {b} {a}", "inversions/a.safetensors"),
    ("fuse", "--input {b} styles=[own,{a}]", "b-fused.png"),
    ("resample", "--input {b} box=null mask={a}", "b-resampled-5.png"),
    ("style", "--input {b} mask={a}", "b-styled.png"), ("mix", "--input {b} styles={a}", "latents/b-mixed.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "given", "result"), RESULTS)
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_no_input_is_overwritten(run, photographs, tmp_path, verb, given, result, link):
    """Whatever it is, and whatever its name leads to."""
    a, b = photographs
    result, before = tmp_path / "output" / result, contents(tmp_path)
    result.parent.mkdir(parents=True)
    link(a, result)
    _, err = run(verb, *given.format(a=a, b=b).split(), code=2)
    assert err == [f"error: {result}: would overwrite the input {a}; choose another --output"]
    result.unlink()
    assert contents(tmp_path) == before


def test_no_input_is_cleared_away_with_the_tiles_of_a_result(run, photographs, tmp_path):
    tiles = tmp_path / "output" / "b-fused_files"
    tiles.mkdir(parents=True)
    style = shutil.copy(photographs[0], tiles)
    _, err = run("fuse", "--input", photographs[1], f"styles=[{style}]", "format=dzi", code=2)
    assert err == [f"error: {tiles}: would overwrite the input {style}; choose another --output"]
    assert contents(tiles) == {Path("a.png"): photographs[0].read_bytes()}


def test_two_runs_do_not_write_to_one_folder(run, tmp_path):
    with lock_folder(tmp_path / "output"):
        output, err = run("fuse", code=2)
    assert "another run is writing there" in err[0] and pictures(output) == []


def test_an_interrupted_run_leaves_nothing_half_done(run, monkeypatch):
    with monkeypatch.context() as patch:
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            patch.setattr(PatchInverter, "draw", lambda *_, number=number, **options: os.kill(os.getpid(), number))
            output, _ = run("fuse", code=code)
    assert contents(output).keys() == {Path("latents/a-fused.safetensors")} and not list(output.rglob(".*"))
    (output / "latents" / ".tmp-4194305-00000000.png").touch()  # of a process that was killed
    assert pictures(run("fuse")[0]) == ["a-fused"] and not list(output.rglob(".*"))


FILMS = {  # words of a command, the names of its films and their frames, and of what is inverted for them
    "interpolate frames=2 what=structure --input {folder}": ({"a-c-interpolated": 5}, ["a", "b", "c"]),
    "interpolate frames=2 --input {a} {c}": ({"a-c-interpolated": 3}, ["a", "c"]),
    "interpolate frames=2 loop=true what=style generate.seeds=[4,2,4] generate.height=20 generate.width=30": (
        {"seed-4-seed-4-interpolated": 6},
        [],
    ),
    "pan step=9 --input {folder}": ({"a-pan": 5, "b-pan": 4, "c-pan": 5}, ["a", "b", "c"]),
    "pan frames=5 generate.count=2 generate.height=20 generate.width=30": ({"seed-0-pan": 5, "seed-1-pan": 5}, []),
}


def frames_in(path):
    with av.open(str(path)) as film:
        return len(list(film.decode(video=0)))


@pytest.mark.parametrize(("words", "films", "inverted"), [(words, *found) for words, found in FILMS.items()])
def test_films_and_their_strips(run, photographs, words, films, inverted):
    a, _ = photographs
    c = shutil.copy(a, a.with_name("c.png"))
    output, _ = run(*words.format(a=a, c=c, folder=a.parent).split())
    assert {path.stem: frames_in(path) for path in output.glob("*.mp4")} == films
    assert pictures(output) == sorted(films)
    assert sorted(path.stem for path in output.rglob("*.safetensors")) == inverted
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_a_film_goes_on_where_it_was_stopped_and_begins_anew_with_other_options(run, monkeypatch):
    """Of a segment that was whole nothing is drawn again."""
    monkeypatch.setattr(film, "SEGMENT", 3)
    words, draw = ["generate.height=16", "generate.width=24", "generate.seeds=[1,2]", "frames=8"], PatchInverter.draw
    drawn = []

    def stopping(self, latents, **options):
        drawn.append(latents)
        if len(drawn) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, latents, **options)

    monkeypatch.setattr(PatchInverter, "draw", stopping)
    output, _ = run("interpolate", *words, code=130)
    assert [path.name[:6] for path in output.iterdir()] == [".film-"]
    monkeypatch.setattr(PatchInverter, "draw", draw)
    unfinished = shutil.copytree(output, output.with_name("kept"))
    monkeypatch.setattr(PatchInverter, "draw", lambda *given, **options: drawn.append(0) or draw(*given, **options))
    for folder, options, count in ((output, [], 9 - 3), (unfinished, ["fps=30"], 9)):
        drawn.clear()
        run("interpolate", *words, *options, output=folder)
        assert len(drawn) == count and frames_in(folder / "seed-1-seed-2-interpolated.mp4") == 9
        assert len(list(folder.iterdir())) == 2


WRONG = [
    ("fuse", "fuse.stiles=[1]", "fuse.styles"),
    ("fuse", "styles=[1,{tmp}/none.png]", "none.png"),
    ("fuse", "styles=[1,{other}]", "encoded by the weights"),
    ("fuse", "centres=[[0.5,0.5],[0,0]] mask={mask}", "both set"),
    ("fuse", "generate.panorama=true", "is not read here"),
    ("fuse", "generate.width=16384 generate.height=1 format=webp", "seed-0: infer.format: webp holds edges"),
    ("fuse", "--input {folder} --output {folder}", "is the input folder"),
    ("outpaint", "--input {tmp}/empty", "no JPEG, PNG"),
    ("outpaint", "--output {a}", "a.png"),
    ("outpaint", "--input {folder} --checkpoint {tmp}/generator.safetensors", "holds no encoder"),
    ("inbetween", "inbetween.width=170", "b.jpg: inbetween.width: 170"),
    ("inbetween", "--input {a} {folder}", "no single image in this folder"),
    ("inbetween", "--input {a} complete.steps=1", "--input: 1 given; two photographs are needed"),
    ("inbetween", "--input {a} {a} --input {a}", "--input: 3 given; two photographs are needed"),
    ("outpaint", "outpaint.seed=4294967295", "outpaint.count: 2 from seed 4294967295 on; seeds end at 4294967295"),
    ("fuse", "generate.seed=4294967295 generate.count=2", "generate.count: 2 from seed 4294967295 on"),
    ("outpaint", "--input {a} {a}x", "a.pngx: no such file"),
    ("resample", "mask={mask}", "one of them"),
    ("fuse", "infer.region=0,0,8,84", "a.png: region: [0, 0, 8, 84], but the image has 64 x 83 pixels"),
    ("chain", "edits=[]", "edits: none given"),
    ("chain", "edits=[{{}}]", "edits[0]: nothing; allowed: one of fuse, "),
    ("chain", "edits=[{{fuse:{{}},resample:{{}}}}]", "edits[0]: fuse, resample; allowed: one of"),
    ("chain", "edits=[{{fuse:{{}},infer:{{}}}}]", "edits[0]: fuse, infer; allowed: one of"),
    ("chain", "edits=[{{fuse:{{\"blurr\":3}}}}]", "edits[0]: unknown key 'fuse.blurr'; the nearest"),
    ("chain", "edits=[{{\"fuse\":null}},{{outpaint:{{\"count\":2}}}}]", "edits[1]: outpaint gives 2 results; allowed"),
    ("chain", "edits=[{{fuse:{{styles:[{a}]}}}}] --output {a}", "a.png"),
    ("chain", "edits=[{{\"style\":{{\"styles\":\"dawn\"}}}}]", "dawn: neither a file nor a saved style"),
    ("chain", "edits=[{{\"style\":{{\"styles\":\"{a}\"}}}}] --output {a}", "a.png"),
    ("chain", "edits=3", "edits: 3 given; allowed: a list of edits, each"),
    ("resample", "box=0,0,65,20", "a.png: resample.box: [0, 0, 65, 20], but the image has 64 x 83 pixels"),
    ("interpolate", "--input {a}", "images: 1; needed are two or more"),
    ("interpolate", "generate.seeds=[3]", "seed-3: interpolate: images: 1"),
    ("pan", "length=84", "a.png: pan.length: 84 px, but the image has a width of 83"),
    ("pan", "generate.height=1", "films of 1 x 512 pixels; allowed: edges of 2 to 16384"),
    ("pan", "generate.width=64 axis=vertical", "generated images have a horizon"),
    ("style", "styles=[1,2] weights=[1]", "style.weights: [1.0] for 2 styles; allowed: one for each, not all 0"),
    ("style", "styles=[1,2] weights=[0,0]", "style.weights: [0.0, 0.0] for 2 styles"),
    ("style", "styles=dawn", "dawn: neither a file nor a saved style; those in styles"),
    ("style", "styles={tmp}/none.png", "none.png"),
    ("style", "strength=5", "style.strength"),
    ("style", "mask={black}", "black.png: white nowhere"),
    ("style", "mask={dot} soften=0", "a.png: mask: no latent cell has its centre inside it"),
    ("style", "what=colours", "told apart by checkpoints with a trunk"),
    ("mix", "layers=[1]", "mix.layers"),
    ("mix", "layers=[0,0]", "told apart by checkpoints with a trunk"),
    ("save-style", "--output {tmp}/style.png", "allowed: a .safetensors file"),
    ("save-style", "--input {tmp}/none.png --output {tmp}/style.safetensors", "none.png: no such file"),
    ("save-style", "strength=2", "unknown key"),
    ("fill", "mask={mask}", "one of them"),
    ("fill", "box=0,0,65,20", "a.png: fill.box: [0, 0, 65, 20], but the image has 64 x 83 pixels"),
    ("fill", "box=0,0,64,83", "the mask takes everything out"),
    ("fill", "source=photograph", "needs a checkpoint with a trunk"),
]


@pytest.mark.parametrize(("verb", "wrong", "said"), WRONG)
def test_a_wrong_command_gets_one_line(run, command, photographs, tmp_path, verb, wrong, said):
    inverter, changed = tiny_inverter(), tmp_path / "changed.safetensors"
    export(tmp_path / "generator.safetensors", inverter.model, {"generator": inverter.generator}, 0)
    next(inverter.encoder.parameters()).data += 1
    write_inverter(changed, inverter)
    command(generate.main, *GENERATED, "save_latents=true", output="other", given=changed)
    (tmp_path / "empty").mkdir()
    dot = np.zeros((64, 83), np.uint8)
    dot[11, 11] = 255
    for name, values in ("mask", np.array([[0, 255]], np.uint8)), ("black", np.zeros((2, 2), np.uint8)), ("dot", dot):
        PIL.Image.fromarray(values).save(tmp_path / f"{name}.png")
    places = {name: tmp_path / f"{name}.png" for name in ("mask", "black", "dot")}
    places |= {"other": tmp_path / "other" / "latents" / "seed-4.safetensors"}
    places |= {"tmp": tmp_path, "a": photographs[0], "folder": photographs[0].parent}
    before = contents(tmp_path)
    _, err = run(verb, *(word.format(**places) for word in wrong.split()), code=2)
    assert len(err) == 1 and err[0].startswith("error: ") and said in err[0]
    assert contents(tmp_path) == before


HELP = {"": "required: VERB", "tint": "'tint' (choose from", "outpaint --output x": "arguments are required: --input"}
HELP |= {"--help": "outpaint      a photograph on a larger canvas", "fuse --help": "without it, generated"}


@pytest.mark.parametrize("arguments", HELP)
def test_help(capsys, arguments):
    with pytest.raises(SystemExit, match="0" if "--help" in arguments else "2"):
        edit.main(arguments.split())
    assert HELP[arguments] in "".join(capsys.readouterr())


class Tint(schema.Section):
    """The options of another edit."""

    strength: float = schema.key(0.5, "share of the style of seed 1")


def test_another_edit_is_a_function_its_options_and_an_entry(run, monkeypatch):
    def tint(model, config):
        return {"tinted": lambda source: source.latents().with_style(model.style(1), config.tint.strength)}

    config = schema.command("tint", tint=Tint, infer=schema.Edited)
    monkeypatch.setitem(VERBS, "tint", Verb("the style of a seed", config, tint))
    assert pictures(run("tint", "strength=0.2")[0]) == ["a-tinted"]


CONFIGS = {  # overrides that tiny networks take no time for, and the pictures that come of each command
    "fuse": (["generate.height=24", "generate.width=80", "fuse.blur=9"], 1),
    "panorama": (["generate.height=24", "generate.width=64"], 1),
    "chain": ([], 1),
    "style": (["generate.height=24", "generate.width=64"], 1),
    "mix": (["generate.height=24", "generate.width=64"], 1),
    "outpaint": (["complete.steps=2"], 3),
    "inbetween": (["complete.steps=2"], 2),
    "fill": ([], 2),
    "resample": (["generate.height=104", "generate.width=120", "complete.steps=2"], 4),
    "interpolate": (["generate.height=24", "generate.width=40", "interpolate.frames=2"], 1),
    "pan": (["generate.height=24", "generate.width=40", "pan.frames=3"], 1),
    "direction": (["direction=pca:1", "generate.height=40", "generate.width=48"], 6),
}
TRUNK = ["chain", "direction", "mix"]  # verbs that need one


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_runs_as_its_head_says(command, checkpoint, trunk_checkpoint, tmp_path, path):
    small, count = CONFIGS[path.stem]
    for word in ("PHOTO", "OTHER", "LEFT", "RIGHT", "MASK"):
        PIL.Image.new("RGB", (120, 104), "white" if word == "MASK" else "red").save(tmp_path / f"{word}.png")
    head = re.findall(r"^# +python (\S+)\.py (.*)$", path.read_text(), re.MULTILINE)
    for k, (program, rest) in enumerate(head):
        words = [re.sub("[A-Z]{4,}", lambda found: f"{tmp_path / found[0]}.png", word) for word in shlex.split(rest)]
        del words[words.index("--output") : words.index("--output") + 2]
        main = main_of(words.pop(0)) if program == "edit" else generate.main
        given = trunk_checkpoint if path.stem in TRUNK else checkpoint
        code, err, output = command(main, *words, *small, output=str(k), given=given)
        assert code == 0 and len(pictures(output)) == count, err
    assert head


def test_edits_keep_what_a_photograph_says_of_itself(run, command, photographs):
    exif = PIL.Image.Exif()
    exif[Base.Make] = "Maker"
    grey = PIL.Image.fromarray(photograph(64, 83)).convert("L")
    grey.save(photographs[0], exif=exif.tobytes(), dpi=(300, 300))
    grey.save(photographs[1], exif=exif.tobytes())
    for verb, options, kept in (
        ("outpaint", ["count=1", "depth=16"], "Maker"),
        ("outpaint", ["count=1", "metadata=false", "format=jpeg"], None),
        ("inbetween", [], None),
        ("resample", [], "Maker"),
    ):
        output, _ = run(verb, *options, output=f"{verb}{len(options)}")
        (path,) = [each for each in output.iterdir() if each.is_file()]
        with PIL.Image.open(path) as picture:
            assert picture.getexif().get(Base.Make) == kept
        pixels = open_image(path, 10**6).window_float(0, 0, 30, 40)
        assert (pixels == pixels[..., :1]).all()  # what is new is grey, too
    output, err = run("fuse", "styles=[1,2]", output="coloured")
    assert np.ptp(png(output / "a-fused.png"), axis=2).max() > 0
    code, err, _ = command(generate.main, "depth=16", "format=webp")
    assert code == 2 and "infer.depth: 16, but webp holds 8 bits" in err


def test_strengths_of_a_direction(run, photographs, trunk_checkpoint, tmp_path):
    """Each a result, and a strip of them; one alone has none. Outside a mask nothing changes."""
    options = ["direction=pca:1", "strengths=[-1.5,0,2]"]
    output, _ = run("direction", *options, given=trunk_checkpoint)
    assert pictures(output) == ["a-pca-1+0", "a-pca-1+2", "a-pca-1-1.5", "a-strip"]
    assert png(output / "a-strip.png").shape == (64, 3 * 83 + 2 * 4, 3)
    dark, plain, bright = (png(output / f"a-pca-1{strength}.png") for strength in ("-1.5", "+0", "+2"))
    assert dark.mean() < plain.mean() < bright.mean()
    PIL.Image.fromarray(np.array([[0, 0, 0, 255]], np.uint8)).save(tmp_path / "mask.png")
    masked, _ = run("direction", *options[:1], f"mask={tmp_path / 'mask.png'}", "strength=2", "soften=4",
                    output="masked", given=trunk_checkpoint)  # fmt: skip
    assert pictures(masked) == ["a-pca-1+2"]
    change = (png(masked / "a-pca-1+2.png") != plain).any((0, 2))
    assert change[75:].all() and not change[:20].any()
    again, _ = run("direction", "--input", output / "latents" / "a-pca-1+2.safetensors", *options[:1], "strength=0",
                   output="again", given=trunk_checkpoint)  # fmt: skip
    assert (png(again / "a-pca-1+2-pca-1+0.png") == bright).all()


@pytest.fixture
def sides(tmp_path):
    """Folders of dark and of bright photographs."""
    for name, (low, high) in {"dark": (0, 150), "bright": (100, 255)}.items():
        (tmp_path / name).mkdir()
        for k in range(4):
            values = low + photograph(40, 48, 10 * high + k) / 255 * (high - low)
            PIL.Image.fromarray(values.astype(np.uint8)).save(tmp_path / name / f"{k}.png")
    return tmp_path / "dark", tmp_path / "bright"


def test_a_direction_between_two_folders(command, run, sides, trunk_checkpoint):
    """It says how well they are told apart, does what they say, and leaves nothing else behind."""
    fit = main_of("fit-direction")
    (sides[0] / "text.png").write_text("this is a text file")
    code, err, path = command(fit, "--input", *sides, output="brighter.safetensors", given=trunk_checkpoint)
    assert code == 1 and "failed: " in err and "text.png" in err
    (sides[0] / "text.png").unlink()
    code, err, path = command(fit, "--input", *sides, output="brighter.safetensors", given=trunk_checkpoint)
    assert code == 0 and path.is_file() and not list(path.parent.glob(".*"))
    output, _ = run("direction", f"direction={path}", "strengths=[-1,1]", output="moved", given=trunk_checkpoint)
    assert png(output / "a-brighter-1.png").mean() + 20 < png(output / "a-brighter+1.png").mean()
    before = path.read_bytes()
    link = output / "latents" / "a-brighter+1.safetensors"
    link.unlink()
    link.hardlink_to(path)
    _, err = run("direction", f"direction={path}", output="moved", given=trunk_checkpoint, code=2)
    assert "would overwrite the input" in err[0] and path.read_bytes() == before


NO_DIRECTION = [
    ("fit-direction", "--input {dark}", "--input: 1 given; two folders are needed"),
    ("fit-direction", "--input {dark} {dark}", "4 photographs are in both sets"),
    ("fit-direction", "--input {dark} {tmp}/empty", "no JPEG, PNG"),
    ("fit-direction", "--input {dark} {dark}/0.png --output {tmp}/x", "allowed: a .safetensors file"),
    ("fit-direction", "--input {dark} {bright}/0.png", "a set of 1 different photographs; two or more"),
    ("fit-direction", "--input {dark} {bright} infer.refine=3", "'infer.refine' is not read here"),
    ("fit-direction", "--input {dark} {bright} --checkpoint {tiny}", "needs a checkpoint with a trunk"),
    ("direction", "direction=pca:1 --checkpoint {tiny}", "needs a checkpoint with a trunk"),
    ("direction", "direction=day-dusk", "fitted in the styles of another model"),
    ("direction", "direction=dask", "allowed: pca:K, sefa:K, a .safetensors file, or one of clear-hazy, day-dusk"),
    ("direction", "direction=null", "direction.direction: null; allowed"),
    ("direction", "direction=pca:1 strength=4", "direction.strength: 4"),
    ("direction", "direction=pca:1 strengths=[]", "direction.strengths"),
    ("direction", "direction=pca:1 layers=[0,1]", "only sefa:K reads them"),
]


@pytest.mark.parametrize(("verb", "wrong", "said"), NO_DIRECTION)
def test_what_is_wrong_with_a_direction(command, sides, checkpoint, trunk_checkpoint, tmp_path, verb, wrong, said):
    (tmp_path / "empty").mkdir()
    places = {"tmp": tmp_path, "dark": sides[0], "bright": sides[1], "tiny": checkpoint}
    words = wrong.format(**places).split()
    words += [] if "--input" in words else ["--input", str(sides[0] / "0.png")]
    before = contents(tmp_path)
    code, err, _ = command(main_of(verb), *words, output="new.safetensors", given=trunk_checkpoint)
    (line,) = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert code == 2 and said in line and contents(tmp_path) == before
