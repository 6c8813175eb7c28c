"""Runs that stop at any moment go on, and processes share a run: the files are those of one undisturbed run."""

import json
import os
import resource
import shutil
from functools import partial

import PIL.Image
import pytest
import torch

import infer
from images.reading import Image, ImageError
from inversion import jobs
from tests.conftest import lines, write_inverter
from tests.infer_runs import SMALL, programs, results
from tests.inversion.conftest import photograph, tiny_inverter

OPTIONS = ["infer.dtype=float32", "infer.block=32", "infer.noise=field", "infer.latents=zarr", "infer.save_float=true"]
REFINED = ["infer.refine=3", "infer.refine_prior=0.01"]
IN_MEMORY = 10**9
ANEW_NOTE = "images are done anew: they are of other files or options"


@pytest.fixture
def run(command, monkeypatch):
    """Runs infer.py, where images lie on the disk, in small blocks: exit code, stderr, output folder."""
    for each in SMALL:
        monkeypatch.setattr(*each)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield partial(command, infer.main, *OPTIONS)
    torch.set_num_threads(threads)


UNDISTURBED = {}  # results by arguments: the same for all tests


@pytest.fixture
def whole(run):
    """The results of an undisturbed run over the photographs as they are made."""

    def get(source, *options):
        key = source.name, options
        if key not in UNDISTURBED:
            code, err, output = run("--input", source, *options, output="whole")
            assert code == 0 and not err
            UNDISTURBED[key] = results(output)
        return UNDISTURBED[key]

    return get


@pytest.fixture
def said(monkeypatch):
    """The lines that are told on stdout."""
    lines = []
    monkeypatch.setattr("utils.log.info", lambda text, main=True: lines.append(text) if main else None)
    return lines


@pytest.fixture
def stop(run, monkeypatch):
    """Runs infer.py up to the `count`th block; returns exit code, stderr, output, and how many blocks were begun."""

    def stopped(count, *arguments, error=KeyboardInterrupt, **options):
        begun, pending = 0, jobs.Job.pending

        def blocks(*arguments):
            nonlocal begun
            for block in pending(*arguments):
                begun += 1
                if begun >= count:
                    raise error
                yield block

        with monkeypatch.context() as patch:
            patch.setattr(jobs.Job, "pending", blocks)
            return *run(*arguments, **options), begun

    return stopped


def images(output):
    """How many images the summary counts."""
    return json.loads((output / "summary.json").read_text())["images"]


@pytest.mark.parametrize(("options", "every", "lost"), [([], 10, 5), (REFINED, 20, 5)], ids=["encoded", "refined"])
def test_a_run_that_is_stopped_again_and_again(run, stop, photographs, monkeypatch, options, every, lost):
    """It writes what one does that is not, on the disk or in memory; some blocks wait to be written when it stops."""
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "HELD", IN_MEMORY)
        memory = run("--input", photographs, *options, output="memory")[2]
    _, _, whole, total = stop(10**6, "--input", photographs, *options, output="whole")
    done, code = [], 130
    while code == 130 and len(done) < 20:
        code, _, output, _ = stop(every, "--input", photographs, *options)
        done.append(images(output))
    assert code == 0 and done == sorted(done) and done[0] == 0 and done[-1] == 3
    assert total / every < len(done) <= total / (every - lost) + 1
    assert results(output) == results(whole) == results(memory) and len(results(whole)) > 12


def test_latents_are_drawn_on_too(run, stop, photographs):
    latents = run("--input", photographs / "a.png", output="first")[2] / "latents"
    whole = run("--latents", latents, output="whole")[2]
    assert stop(3, "--latents", latents)[0] == 130
    code, _, output, _ = stop(10**6, "--latents", latents)
    assert code == 0 and results(output) == results(whole)


def test_what_is_said(run, stop, photographs, said):
    stop(18, "--input", photographs)
    assert said[-1] == "note: stopped; the same command goes on from here"
    for options, first, then in (
        ([], "note: going on with an unfinished run: 1 of 3 images done", ["more/B", "tiny", "3"]),
        ([], "note: 3 of 3 images are there already (overwrite=true does them anew)", ["3"]),
        (["seed=2"], f"note: 3 of 3 {ANEW_NOTE}", ["a", "more/B", "tiny", "3"]),
        (["seed=2", "overwrite=true"], "", ["a", "more/B", "tiny", "3"]),
    ):
        said.clear()
        run("--input", photographs, *options)
        notes = [text for text in said if text.startswith("note: ")]
        assert notes == [first] * bool(first) and [text.split()[0] for text in said[len(notes) :]] == then


def stamps(output):
    """When results were written."""
    return {str(path.relative_to(output)): path.stat().st_mtime_ns for path in output.rglob("*.*") if path.is_file()
            and path.name not in ("metrics.csv", "summary.json")}


def names(output):
    return [line.split(",")[0] for line in (output / "metrics.csv").read_text().splitlines()[1:]]


def test_one_photograph_more_is_the_only_one_that_is_done(run, photographs):
    output = run("--input", photographs)[2]
    before = stamps(output)
    PIL.Image.fromarray(photograph(9, 12)).save(photographs / "new.png")
    assert run("--input", photographs)[0] == 0 and images(output) == 4
    after = stamps(output)
    assert before.items() < after.items() and all("new" in name for name in after.keys() - before.keys())
    assert names(output) == ["a", "more/B", "new", "tiny"]
    assert not (output / ".unfinished").exists()


def test_one_call_for_each_photograph(run, photographs):
    """All rows stay, and are those of one call."""
    for name in ("a.png", "more/B.JPG", "tiny.png", "a.png"):
        code, err, output = run("--input", photographs / name)
        assert code == 0 and not err
    assert names(output) == ["B", "a", "tiny"] and images(output) == 3
    (photographs / "a.png").write_text("no image any more")
    assert run("--input", photographs / "a.png")[0] == 1 and names(output) == ["B", "tiny"]


ANEW = [  # what is changed after a run, and whether the image is done again
    (lambda photo, output: [], False),
    (lambda photo, output: ["overwrite=false"], False),
    (lambda photo, output: (output / "metrics.csv").write_text("name\n") and [], False),  # it is written again
    (lambda photo, output: PIL.Image.new("RGB", (61, 37), "red").save(photo) or [], True),
    (lambda photo, output: os.utime(photo, ns=(1, 1)) or [], True),
    (lambda photo, output: (output / "float/a.npy").unlink() or [], True),
    (lambda photo, output: os.truncate(output / "comparison/a.png", 50) or [], True),
    (lambda photo, output: shutil.rmtree(output / "latents/a.zarr") or [], True),
    (lambda photo, output: (output / "summary.json").unlink() or [], True),
    (lambda photo, output: (output / "summary.json").write_text("[" * 10**5) and [], True),
    (lambda photo, output: ["infer.seed=5"], True),
    (lambda photo, output: ["infer.seed=5", "--checkpoint", write_other(output.parent / "other.safetensors")], True),
    (lambda photo, output: ["infer.seed=6"], True),
    (lambda photo, output: ["infer.seed=6", "overwrite=true"], True),
]


def write_other(path):
    """Another checkpoint than that of the other runs."""
    inverter = tiny_inverter()
    next(inverter.encoder.parameters()).data += 0.1
    write_inverter(path, inverter)
    return path


def test_what_is_done_again(run, photographs, monkeypatch):
    monkeypatch.setattr(jobs, "HELD", IN_MEMORY)
    photo = photographs / "a.png"
    output = run("--input", photo)[2]
    for number, (change, anew) in enumerate(ANEW):
        before = stamps(output)
        options = change(photo, output)
        assert run("--input", photo, *options)[0] == 0 and names(output) == ["a"] and images(output) == 1
        assert (stamps(output) != before) == anew, number
        after = stamps(output)
        assert run("--input", photo, *options)[0] == 0, number
        assert (stamps(output) != after) == ("overwrite=true" in options), number


def test_a_record_that_names_other_files_is_not_believed(run, photographs, tmp_path):
    output = run("--input", photographs / "a.png")[2]
    (tmp_path / "precious").write_text("x")
    summary = json.loads((output / "summary.json").read_text())
    for name in ("../precious", str(tmp_path / "precious"), "summary.json"):
        summary["finished"]["a"]["files"] = {name: 1}
        (output / "summary.json").write_text(json.dumps(summary))
        before = stamps(output)
        assert run("--input", photographs / "a.png")[0] == 0 and stamps(output) != before
    assert (tmp_path / "precious").read_text() == "x"


def test_a_stopped_run_and_another_photograph(run, stop, photographs, whole):
    """What is done, and begun, of one input stays when others are done; both end as undisturbed runs do."""
    assert stop(18, "--input", photographs)[0] == 130
    code, err, output = run("--input", photographs / "tiny.png")
    assert code == 0 and not err and (output / ".unfinished").exists() and names(output) == ["a", "tiny"]
    assert run("--input", photographs)[0] == 0 and results(output) == whole(photographs)
    assert names(output) == ["a", "more/B", "tiny"]


CHANGES = {
    "settings": lambda folder: ["infer.seed=5"],
    "input": lambda folder: PIL.Image.new("RGB", (61, 37), "red").save(folder / "a.png") or [],
    "latents": lambda folder: shutil.rmtree(folder.parent / "output" / "latents" / "a.zarr") or [],
    "nothing": lambda folder: [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_done_anew(run, stop, photographs, change):
    assert images(stop(18, "--input", photographs)[2]) == 1
    options = CHANGES[change](photographs)
    _, _, whole, total = stop(10**6, "--input", photographs, *options, output="whole")
    code, _, output, begun = stop(10**6, "--input", photographs, *options)
    assert code == 0 and results(output) == results(whole) and images(output) == 3
    assert (begun > total / 2) == (change != "nothing")


def each_job(write):
    def damage(folder):
        for job in filter(os.path.isdir, folder.iterdir()):
            write(job)

    return damage


def flip(path):
    values = bytearray(path.read_bytes())
    values[len(values) // 2] ^= 1
    path.write_bytes(values)


def link_away(job):
    precious = job.parents[2] / "precious" / job.name
    job.rename(precious)
    job.symlink_to(precious)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def other_codec(path):
    text = json.loads(path.read_text())
    text["codecs"].append({"name": "gzip", "configuration": {"level": 1}})
    path.write_text(json.dumps(text))


FOREIGN = {
    "a file": lambda folder: shutil.rmtree(folder) or folder.write_text("in the way"),
    "state of other types": each_job(
        lambda job: (job / "state.json").write_text(json.dumps({"made_of": "", "row": {"name": 1}, "files": 5}))
    ),
    "links": each_job(link_away),
    "other steps": each_job(lambda job: (job / "refined" / "more").mkdir()),
    "steps beyond the last": each_job(lambda job: (job / "refined" / "9").mkdir()),
    "an array's codec": each_job(lambda job: other_codec(job / "latents" / "zarr.json")),
    "an array's pipe": each_job(lambda job: pipe(job / "latents" / "zarr.json")),
    "missing chunks": each_job(lambda job: shutil.rmtree(job / "latents" / "c")),
}


@pytest.mark.parametrize("damage", FOREIGN)
def test_foreign_things_in_the_unfinished_folder(run, stop, photographs, whole, tmp_path, damage):
    options = ["--input", photographs / "a.png", *REFINED]
    output = stop(20, *options)[2]
    (tmp_path / "precious").mkdir()
    FOREIGN[damage](output / ".unfinished")
    precious = sorted((tmp_path / "precious").rglob("*"))
    code, err, _ = run(*options)
    assert code == 0 and not err and results(output) == whole(photographs / "a.png", *REFINED)
    assert sorted((tmp_path / "precious").rglob("*")) == precious


DAMAGE = {
    "encoded": lambda job: flip(job / "latents/c/0/0/0"),
    "refined": lambda job: flip(job / "refined/2/latents/c/0/0/0"),
    "momentum": lambda job: (job / "refined/1/momentum/c/0/0/0").unlink(),
    "pixels": lambda job: flip(next(job.glob("pixels/c/0/0/0"))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_blocks_are_one_line_and_then_made_anew(run, stop, photographs, whole, damage):
    options = ["--input", photographs / "a.png", *REFINED]
    output = stop(28 if damage == "pixels" else 16, *options)[2]
    each_job(DAMAGE[damage])(output / ".unfinished")
    code, err, _ = run(*options)
    assert code == 1 and len(lines(err)) == 1 and "the same command makes it anew" in err
    code, err, _ = run(*options)
    assert code == 0 and not err and results(output) == whole(photographs / "a.png", *REFINED)


@pytest.mark.parametrize(("error", "kept"), [(OSError(5, "Input/output error"), True), (OSError("broken"), False)])
def test_an_image_that_the_disk_refuses_keeps_what_is_done_and_a_damaged_one_does_not(
    run, photographs, whole, monkeypatch, error, kept
):
    def refuse(image, *window):
        raise ImageError("a.png", "cannot be read") from error

    with monkeypatch.context() as patch:
        patch.setattr(Image, "window", refuse)  # which the comparison reads
        code, err, output = run("--input", photographs / "a.png")
    assert code == 1 and len(lines(err)) == 1 and not list(output.rglob("*.png"))
    assert bool(list(output.rglob("pixels"))) == kept
    assert run("--input", photographs / "a.png")[0] == 0 and results(output) == whole(photographs / "a.png")


@pytest.mark.parametrize("limit", [100, 3000])
def test_a_disk_that_refuses_is_one_line_and_the_work_stays(run, photographs, whole, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        code, err, output = run("--input", photographs / "a.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and 1 <= len(lines(err)) <= 2 and "MiB free" in lines(err)[0]  # the second: of the figures
    assert not list(output.rglob(".tmp*")) and not list(output.glob("*/a.*"))
    assert run("--input", photographs / "a.png")[0] == 0 and results(output) == whole(photographs / "a.png")


@pytest.mark.parametrize("kind", ["refine", "latents"])
def test_a_disk_without_room_is_known_before_the_first_block(run, stop, photographs, monkeypatch, kind):
    options = ["--input", photographs / "a.png", *REFINED]
    whole = run(*options, output="whole")[2]
    options = ["--latents", whole / "latents"] if kind == "latents" else options
    needed = sum(path.stat().st_size for path in whole.rglob("*.npy")) + 37 * 61 * 12
    with monkeypatch.context() as patch:
        patch.setattr("utils.files.free_space", lambda path: needed - 1000)
        code, err, _, begun = stop(1, *options)
    assert code == 1 and begun == 0 and len(lines(err)) == 1 and "MiB are needed on the disk" in err
    assert run(*options)[0] == 0


def test_what_a_stopped_run_wrote_counts_as_room(run, stop, photographs, monkeypatch):
    options, needed, require = ["--input", photographs / "a.png"], [], jobs.Job.require_space
    monkeypatch.setattr(jobs.Job, "require_space", lambda job, count: needed.append(count) or require(job, count))
    whole = run(*options, output="whole")[2]
    output = stop(14, *options)[2]
    held = sum(path.stat().st_size for path in output.glob(".unfinished/*/**/*") if path.is_file())
    assert held > 1000
    for free, code in ((needed[0] - held - 1, 1), (needed[0] - held, 0)):
        monkeypatch.setattr("utils.files.free_space", lambda path, free=free: free)
        assert run(*options)[0] == code
    assert results(output) == results(whole)


def test_a_name_that_is_a_formula_is_text_in_the_table(run, photographs):
    (photographs / "a.png").rename(photographs / "=1+1.png")
    for _ in range(2):
        output = run("--input", photographs)[2]
        assert names(output) == ["'=1+1", "more/B", "tiny"] and images(output) == 3


def arguments(source, output, checkpoint, *options):
    given = ["--input", source, "--output", output, "--checkpoint", checkpoint, "infer.device=cpu"]
    return [*map(str, given), *OPTIONS, *options]


@pytest.mark.parametrize(("count", "source", "options"), [(2, ".", []), (3, "a.png", REFINED)])
def test_processes_write_what_one_does(run, photographs, checkpoint, tmp_path, count, source, options):
    """They share the images, of which one is damaged, or the blocks of one."""
    (photographs / "broken.png").write_text("no image")
    code, alone, one = run("--input", photographs / source, *options)
    several = tmp_path / "several"
    codes, said, err = programs("workers", count, *arguments(photographs / source, several, checkpoint, *options))
    assert codes == count * [code] == count * [int(source == ".")] and lines(err) == lines(alone)
    assert len(said) == (4 if source == "." else 2) and results(one) == results(several)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, several)]
    assert summaries[0]["failed"] == summaries[1]["failed"] and summaries[0]["images"] == summaries[1]["images"]
    tables = [(folder / "metrics.csv").read_text().splitlines() for folder in (one, several)]
    assert [row.split(",")[:5] for row in tables[0]] == [row.split(",")[:5] for row in tables[1]]


def test_a_process_that_fails_between_two_meetings(run, photographs, whole, checkpoint, tmp_path):
    """The last one cannot write its blocks; the others wait for it, and hear of that."""
    given = arguments(photographs / "a.png", tmp_path / "output", checkpoint)
    codes, _, err = programs("choke", 3, *given)
    assert codes == [1, 1, 1] and 1 <= len(lines(err)) <= 2 and "MiB free" in err
    code, _, output = run("--input", photographs / "a.png")
    assert code == 0 and results(output) == whole(photographs / "a.png")


@pytest.mark.parametrize(("source", "done", "held"), [("a.png", {0}, IN_MEMORY), (".", {2, 3}, 100)])
def test_a_lost_process(run, photographs, whole, checkpoint, tmp_path, monkeypatch, source, done, held):
    """The others say so, after what they can do; one process alone goes on, on disk or in memory."""
    codes, _, err = programs("lose", 2, *arguments(photographs / source, tmp_path / "output", checkpoint))
    assert codes == [1, -9] and len(lines(err)) == 1 and "another worker was lost (rank 1); start again to go on" in err
    assert images(tmp_path / "output") in done and (tmp_path / "output" / ".unfinished").exists()
    monkeypatch.setattr(jobs, "HELD", held)
    code, _, output = run("--input", photographs / source)
    assert code == 0 and results(output) == whole(photographs / source)
