"""edit.py as a user calls it: photographs, folders, latents and generated images; what is wrong; what is left alone."""

import os
import re
import shlex
import shutil
import signal
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from PIL.ExifTags import Base

import edit
import generate
from editing import film
from editing.verbs import VERBS
from images.reading import open_image
from inversion import Latents, PatchInverter, jobs
from inversion.noise import FieldNoise
from models.weights import export
from tests.inversion.conftest import photograph, tiny_inverter, tiny_model
from utils.files import lock_folder

EXAMPLES = Path(__file__).parent.parent / "configs" / "edit"
SMALL = {  # options of each verb that tiny networks take no time for, and the ends of the results' names
    "fuse": (["styles=[own,2]", "fuse.blur=9"], ["fused"]),
    "style": (["styles=2"], ["styled"]),
    "outpaint": (["width=100", "complete.steps=1", "count=2"], ["seed-0", "seed-1"]),
    "inbetween": (["seed=3", "steps=1"], ["seed-3"]),
    "chain": (["edits=[{fuse: {styles: [own, 2], blur: 9}}, {outpaint: {width: 100, seed: 1}, complete: {steps: 1}}, "
               "{resample: {box: [0, 0, 20, 20]}, complete: {steps: 1}}]"], ["edited"]),
    "resample": (["box=0,0,20,20", "complete.steps=1", "resample.seed=5"], ["resampled-5"]),
    "fill": (["box=8,16,24,40", "complete.steps=1"], ["filled-0"]),
}  # fmt: skip
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
def test_results_and_their_names(run, checkpoint, trunk_checkpoint, verb):
    """A picture of each edit, latents that draw it again, the photographs' own, which give the same again; a region has
    the pixels of the whole, and no latents. In a model with a trunk what is new comes from the photographs.
    """
    given, noise = (trunk_checkpoint, None) if verb in ("style", "fill") else (checkpoint, FieldNoise(3))
    options = ["infer.noise=field", "infer.seed=3"] if noise else []
    single, _ = run(verb, *options, output="single", given=given)
    stems = ["a", "b"][: VERBS[verb].images]
    names, stored = names_of(verb, "-".join(stems)), sorted((single / "inversions").iterdir())
    expected = [form.format(name) for form in ("{}.png", "latents/{}.safetensors") for name in names]
    assert [str(path) for path in sorted(contents(single))] == expected
    assert [path.stem for path in stored] == stems and Latents.load(stored[0]).noise == noise
    model = PatchInverter.from_pretrained(given, device="cpu", dtype="float32")
    again, _ = run(verb, "--input", *stored, output="again", given=given)
    assert contents(again) == contents(single) and not (again / "inversions").exists()
    part, _ = run(verb, "--input", *stored, "infer.region=3,10,40,62", output="part", given=given)
    for name in names:
        whole, drawn = png(single / f"{name}.png"), png(part / f"{name}-3-10-40-62.png")
        assert (whole == model.draw(Latents.load(single / "latents" / f"{name}.safetensors"))).all()
        assert drawn.shape == (37, 52, 3) and abs(drawn - whole[3:40, 10:62]).max() <= 1
    assert len(contents(part)) == len(names)


def test_a_chain_is_its_edits_one_after_the_other(run):
    chained, _ = run("chain", output="chained")
    fused, _ = run("fuse", output="fused")
    wider = ["width=100", "seed=1", "count=1"]
    outpainted, _ = run("outpaint", "--input", *(fused / "latents").iterdir(), *wider, output="outpainted")
    resampled, _ = run("resample", "--input", *(outpainted / "latents").iterdir(), "seed=1", output="resampled")
    assert (png(chained / "a-edited.png") == png(next(resampled.glob("*.png")))).all()
    assert not (chained / "inversions" / "a-edited.safetensors").exists()
    styled, _ = run("style", output="styled")
    chained, _ = run("chain", "edits=[{style: {styles: 2}}]", output="no list")
    assert (png(chained / "a-edited.png") == png(styled / "a-styled.png")).all()


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
    for verb in ("fuse", "inbetween", "resample"):
        stored = [plain / "latents" / "seed-4.safetensors"] * VERBS[verb].images
        again, _ = run(verb, "--input", *stored, output=verb, given=given)
        assert len(pictures(again)) == len(SMALL[verb][1])
        if VERBS[verb].generates:
            output, _ = run(verb, *GENERATED, "generate.count=2", output=f"{verb}-2", given=given)
            assert pictures(output) == names_of(verb, "seed-4", "seed-5")


def test_several_inputs(run, photographs):
    """As each by itself; what is damaged is named, and results inside a folder are no images to edit."""
    single, _ = run("fuse", output="single")
    a, b = photographs
    shutil.copy(a, a.with_name("c.jfif"))
    (a.parent / "d.png").write_text("no image")
    for _ in range(2):
        given = ["--input", a, a.parent, "blur=9", "--input", b]
        output, err = run("fuse", *given, output="photographs/out", code=1)
        assert pictures(output) == names_of("fuse", "a", "b", "c")
        assert len(err) == 1 and err[0].startswith("failed: ") and "d.png" in err[0]
    assert (png(output / "a-fused.png") == png(single / "a-fused.png")).all()


def test_a_saved_style_is_the_mean_of_images(run, photographs, tmp_path, monkeypatch):
    """And counts, by its name, as their mean does; a damaged image among them is named, and left out."""
    monkeypatch.chdir(tmp_path)
    (photographs[0].parent / "c.png").write_text("no image")
    _, err = run("save-style", "--input", photographs[0].parent, output="styles/both.safetensors", code=1)
    assert len(err) == 1 and "c.png" in err[0]
    assert [path.name for path in Path("styles").iterdir()] == ["both.safetensors"]
    a, b = photographs
    named, _ = run("style", "styles=both", output="named")
    given, _ = run("style", f"styles=[{a},{b}]", output="given")
    assert (png(named / "a-styled.png") == png(given / "a-styled.png")).all()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "latents").symlink_to(tmp_path / "styles")
    shutil.copy("styles/both.safetensors", "styles/a-styled.safetensors")
    before = contents(tmp_path)
    for given in (["style", "styles=a-styled"], ["save-style", "--input", a, "--output", a]):
        _, err = run(*given, output="linked", code=2)
        assert "would overwrite the input" in err[0] and contents(tmp_path) == before


def test_two_photographs_of_one_name(run, photographs, tmp_path):
    other = tmp_path / "a.jpg"
    PIL.Image.new("RGB", (50, 40), "green").save(other)
    output, _ = run("inbetween", "--input", photographs[0], other)
    assert pictures(output) == ["a-left-a-right-seed-3"]
    for side, size in (("left", (64, 83)), ("right", (40, 50))):
        assert Latents.load(output / "inversions" / f"a-{side}.safetensors").size == size


def test_large_images_are_worked_on_on_the_disk(run, monkeypatch):
    """As those in memory, to the last bit; and in other formats."""
    memory, _ = run("outpaint", "infer.block=24", output="memory")
    monkeypatch.setattr(jobs, "HELD", 100)
    disk, _ = run("outpaint", "infer.block=24", "format=tiff", output="disk")
    assert (png(memory / "a-seed-0.png") == png(disk / "a-seed-0.tif")).all()
    assert sorted(path.name for path in disk.iterdir()) == ["a-seed-0.tif", "a-seed-1.tif", "inversions", "latents"]


RESULTS = [
    ("fuse", "--input {a}", "a-fused.png"), ("outpaint", "--input {a}", "a-seed-1.tif"),
    ("inbetween", "--input {a} {b}", "a-b-seed-3.png"), ("resample", "--input {a}", "latents/a-resampled-5.zarr"),
    ("interpolate", "--input {b} {a}", "inversions/a.safetensors"), ("pan", "--input {a}", "a-pan.mp4"),
    ("fill", "--input {b} box=null mask={a}", "b-filled-0.png"),
    ("outpaint", "--input {b} complete.sources=[{a}]", "b-seed-0.png"),
    ("fuse", "--input {b} styles=[own,{a}]", "b-fused.png"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "given", "result", "link"), [
    (*result, link) for result, link in zip(RESULTS, cycle([os.link, os.symlink]), strict=False)
])  # fmt: skip
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


def test_an_interrupted_run_leaves_nothing_half_done(run, tmp_path, monkeypatch):
    """And two runs do not write to one folder."""
    with monkeypatch.context() as patch:
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            patch.setattr(PatchInverter, "draw", lambda *_, number=number, **options: os.kill(os.getpid(), number))
            output, _ = run("fuse", code=code)
    assert contents(output).keys() == {Path("latents/a-fused.safetensors")} and not list(output.rglob(".*"))
    (output / "latents" / ".tmp-4194305-00000000.png").touch()  # of a process that was killed
    assert pictures(run("fuse")[0]) == ["a-fused"] and not list(output.rglob(".*"))
    with lock_folder(tmp_path / "other"):
        output, err = run("fuse", output="other", code=2)
    assert "another run is writing there" in err[0] and pictures(output) == []


FILMS = {  # words of a command, the names of its films and their frames, and of what is inverted for them
    "interpolate frames=2 what=structure --input {folder}": ({"a-c-interpolated": 5}, ["a", "b", "c"]),
    "interpolate frames=2 loop=true what=style generate.seeds=[4,2,4] generate.height=20 generate.width=30":
        ({"seed-4-seed-4-interpolated": 6}, []),
    "pan step=9 --input {folder}": ({"a-pan": 5, "b-pan": 4, "c-pan": 5}, ["a", "b", "c"]),
}  # fmt: skip


def frames_in(path):
    with av.open(str(path)) as film:
        return len(list(film.decode(video=0)))


@pytest.mark.parametrize(("words", "films", "inverted"), [(words, *found) for words, found in FILMS.items()])
def test_films_and_their_strips(run, photographs, words, films, inverted):
    a, _ = photographs
    shutil.copy(a, a.with_name("c.png"))
    output, _ = run(*words.format(folder=a.parent).split())
    assert {path.stem: frames_in(path) for path in output.glob("*.mp4")} == films
    assert pictures(output) == sorted(films)
    assert sorted(path.stem for path in output.rglob("*.safetensors")) == inverted
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_a_film_goes_on_where_it_was_stopped_and_begins_anew_with_other_options(run, monkeypatch):
    """Of a segment that was whole nothing is drawn again."""
    monkeypatch.setattr(film, "SEGMENT", 3)
    words, draw = ["generate.height=16", "generate.width=24", "generate.seeds=[1,2]", "frames=8"], PatchInverter.draw
    drawn, stop = [], [5]

    def counted(self, latents):
        drawn.append(latents)
        if len(drawn) in stop:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, latents)

    monkeypatch.setattr(PatchInverter, "draw", counted)
    output, _ = run("interpolate", *words, code=130)
    assert [path.name[:6] for path in output.iterdir()] == [".film-"]
    stop.clear()
    other = shutil.copytree(output, output.with_name("other"))
    for folder, options, count in ((output, [], 9 - 3), (other, ["fps=30"], 9)):
        drawn.clear()
        run("interpolate", *words, *options, output=folder)
        assert len(drawn) == count and frames_in(folder / "seed-1-seed-2-interpolated.mp4") == 9
        assert len(list(folder.iterdir())) == 2


WRONG = [
    ("fuse", "styles=[1,{tmp}/none.png]", "none.png"),
    ("fuse", "styles=[1,{other}]", "encoded by the weights"),
    ("fuse", "centres=[[0.5,0.5],[0,0]] mask={mask}", "both set"),
    ("fuse", "generate.width=16384 generate.height=1 format=webp", "seed-0: infer.format: webp holds edges"),
    ("fuse", "--input {folder} --output {folder}", "is the input folder"),
    ("fuse", "generate.seed=4294967295 generate.count=2", "generate.count: 2 from seed 4294967295 on"),
    ("fuse", "infer.region=0,0,8,84", "a.png: region: [0, 0, 8, 84], but the image has 64 x 83 pixels"),
    ("outpaint", "--input {tmp}/empty", "no JPEG, PNG"),
    ("outpaint", "--output {a}", "a.png"),
    ("outpaint", "--input {folder} --checkpoint {tmp}/generator.safetensors", "holds no encoder"),
    ("outpaint", "outpaint.seed=4294967295", "outpaint.count: 2 from seed 4294967295 on; seeds end at 4294967295"),
    ("outpaint", "--input {a} {a}x", "a.pngx: no such file"),
    ("inbetween", "inbetween.width=170", "b.jpg: inbetween.width: 170"),
    ("inbetween", "--input {a} {folder}", "no single image in this folder"),
    ("inbetween", "--input {a} complete.steps=1", "--input: 1 given; two photographs are needed"),
    ("chain", "edits=[]", "edits: none given"),
    ("chain", "edits=[{{fuse:{{}},resample:{{}}}}]", "edits[0]: fuse, resample; allowed: one of"),
    ("chain", "edits=[{{fuse:{{}},infer:{{}}}}]", "edits[0]: fuse, infer; allowed: one of"),
    ("chain", "edits=[{{fuse:{{\"blurr\":3}}}}]", "edits[0]: unknown key 'fuse.blurr'; the nearest"),
    ("chain", "edits=[{{\"fuse\":null}},{{outpaint:{{\"count\":2}}}}]", "edits[1]: outpaint gives 2 results; allowed"),
    ("chain", "edits=[{{\"style\":{{\"styles\":\"{a}\"}}}}] --output {a}", "a.png"),
    ("resample", "mask={mask}", "one of them"),
    ("resample", "box=0,0,65,20", "a.png: resample.box: [0, 0, 65, 20], but the image has 64 x 83 pixels"),
    ("interpolate", "generate.seeds=[3]", "seed-3: interpolate: images: 1; needed are two or more"),
    ("pan", "length=84", "a.png: pan.length: 84 px, but the image has a width of 83"),
    ("pan", "generate.height=1", "films of 1 x 512 pixels; allowed: edges of 2 to 16384"),
    ("style", "styles=[1,2] weights=[1]", "style.weights: [1.0] for 2 styles; allowed: one for each, not all 0"),
    ("style", "styles=dawn", "dawn: neither a file nor a saved style; those in styles"),
    ("style", "mask={black}", "black.png: white nowhere"),
    ("style", "mask={dot} soften=0", "a.png: mask: no latent cell has its centre inside it"),
    ("style", "what=colours", "told apart by checkpoints with a trunk"),
    ("save-style", "--output {tmp}/style.png", "allowed: a .safetensors file"),
    ("save-style", "strength=2", "unknown key"),
    ("fill", "box=0,0,64,83", "the mask takes everything out"),
    ("fit-direction", "--input {folder} --output {tmp}/new.safetensors", "--input: 1 given; two folders are needed"),
    ("fit-direction", "--input {folder} {a} --output {tmp}/x", "allowed: a .safetensors file"),
    ("direction", "direction=pca:1", "needs a checkpoint with a trunk"),
    ("direction", "direction=null --checkpoint {trunk}", "direction.direction: null; allowed"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory, trunk_checkpoint):
    """What wrong commands name besides photographs."""
    folder, inverter = tmp_path_factory.mktemp("places"), tiny_inverter()
    export(folder / "generator.safetensors", inverter.model, {"generator": inverter.generator}, 0)
    model = tiny_model(inverter)
    replace(model.generate(8, 8), model="other").save(folder / "other.safetensors")
    (folder / "empty").mkdir()
    dot = np.zeros((64, 83), np.uint8)
    dot[11, 11] = 255
    for name, values in ("mask", np.array([[0, 255]], np.uint8)), ("black", np.zeros((2, 2), np.uint8)), ("dot", dot):
        PIL.Image.fromarray(values).save(folder / f"{name}.png")
    pictures = {name: folder / f"{name}.png" for name in ("mask", "black", "dot")}
    return pictures | {"other": folder / "other.safetensors", "tmp": folder, "trunk": trunk_checkpoint}


@pytest.mark.parametrize(("verb", "wrong", "said"), WRONG)
def test_a_wrong_command_gets_one_line(run, photographs, places, tmp_path, verb, wrong, said):
    places = places | {"a": photographs[0], "folder": photographs[0].parent}
    before = contents(tmp_path), contents(places["tmp"])
    _, err = run(verb, *(word.format(**places) for word in wrong.split()), code=2)
    assert len(err) == 1 and err[0].startswith("error: ") and said in err[0]
    assert (contents(tmp_path), contents(places["tmp"])) == before


def test_help(capsys):
    for arguments, code, said in (
        ("", "2", "required: VERB"),
        ("tint", "2", "'tint' (choose from"),
        ("outpaint --output x", "2", "arguments are required: --input"),
        ("--help", "0", "outpaint      a photograph on a larger canvas"),
        ("fuse --help", "0", "without it, generated"),
    ):
        with pytest.raises(SystemExit, match=code):
            edit.main(arguments.split())
        assert said in "".join(capsys.readouterr())


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


def test_strengths_of_a_direction(run, trunk_checkpoint):
    """Each a result, and a strip of them; one alone has none."""
    options = ["direction=pca:1", "strengths=[-1.5,0,2]"]
    output, _ = run("direction", *options, given=trunk_checkpoint)
    assert pictures(output) == ["a-pca-1+0", "a-pca-1+2", "a-pca-1-1.5", "a-strip"]
    assert png(output / "a-strip.png").shape == (64, 3 * 83 + 2 * 4, 3)
    dark, plain, bright = (png(output / f"a-pca-1{strength}.png") for strength in ("-1.5", "+0", "+2"))
    assert dark.mean() < plain.mean() < bright.mean()
    alone, _ = run("direction", *options[:1], "strength=2", output="alone", given=trunk_checkpoint)
    assert pictures(alone) == ["a-pca-1+2"]


def test_a_direction_between_two_folders(command, run, tmp_path, trunk_checkpoint):
    """It says how well they are told apart, does what they say, and leaves nothing else behind."""
    for name, (low, high) in {"dark": (0, 150), "bright": (100, 255)}.items():
        (tmp_path / name).mkdir()
        for k in range(4):
            values = low + photograph(40, 48, 10 * high + k) / 255 * (high - low)
            PIL.Image.fromarray(values.astype(np.uint8)).save(tmp_path / name / f"{k}.png")
    (tmp_path / "dark" / "text.png").write_text("this is a text file")
    fit, sets = main_of("fit-direction"), ["--input", tmp_path / "dark", tmp_path / "bright"]
    code, err, path = command(fit, *sets, output="brighter.safetensors", given=trunk_checkpoint)
    assert code == 1 and "failed: " in err and "text.png" in err and not list(path.parent.glob(".*"))
    output, _ = run("direction", f"direction={path}", "strengths=[-1,1]", output="moved", given=trunk_checkpoint)
    assert png(output / "a-brighter-1.png").mean() + 20 < png(output / "a-brighter+1.png").mean()
    before = path.read_bytes()
    link = output / "latents" / "a-brighter+1.safetensors"
    link.unlink()
    link.hardlink_to(path)
    _, err = run("direction", f"direction={path}", output="moved", given=trunk_checkpoint, code=2)
    assert "would overwrite the input" in err[0] and path.read_bytes() == before
