"""The parts of a checkpoint's evaluation whose result is known; all of it together is tested with evaluate.py."""

import numpy as np
import pytest
import torch

from evaluation import run
from evaluation.fidelity import pixelwise
from evaluation.latents import relative_error, window
from evaluation.measures import MEASURES, mean, ratio
from evaluation.photographs import REFINEMENTS, PhotographMeasures, measure_edits, spread
from tests.evaluation.tiny import noise, opened, tiny_evaluated

SIZES = {"a": (48, 60), "b": (60, 49), "c": (33, 47)}
PIXELS = {name: noise(*size, seed) for seed, (name, size) in enumerate(SIZES.items())}


@pytest.fixture
def measured(checkpoint):
    """Makes an evaluated model, and what it measured of three photographs; `overrides`: single options."""

    def make(*overrides, **metrics):
        evaluated = tiny_evaluated(checkpoint, *overrides, **metrics)
        measures = PhotographMeasures(evaluated, list(SIZES))
        for name, pixels in PIXELS.items():
            measures.add(name, opened(pixels))
        return evaluated, measures

    return make


class Brightness:
    """Stands for a discriminator, and for LPIPS."""

    def __call__(self, images, seed):
        return mean(image.mean() for image in images) if seed == 0 else None

    def distance(self, reconstruction, target):
        assert reconstruction.shape == target.shape and target.min() >= -1 and target.max() <= 1
        return (reconstruction - target).abs().mean()


def test_figures_of_images_and_their_means(measured):
    evaluated, measures = measured("details=0", lpips=Brightness())
    assert [(row["name"], row["height"], row["width"]) for row in measures.rows] == [(k, *v) for k, v in SIZES.items()]
    for row in measures.rows:
        result = evaluated.model.draw(evaluated.model.invert(PIXELS[row["name"]]))
        assert {key: row[key] for key in ("psnr", "ssim")} == pixelwise(PIXELS[row["name"]], result)
        difference = np.abs(np.subtract(result, PIXELS[row["name"]], dtype=float))
        assert row["lpips"] == pytest.approx(difference.mean() / 127.5)
        assert 0 < row["ms_ssim"] < 1 and row["seconds"] > 0 and row["peak_memory_mib"] >= 0
    means = measures.means()
    assert means["psnr"] == pytest.approx(np.mean([row["psnr"] for row in measures.rows]))
    assert set(means) <= set(MEASURES)
    megapixels = sum(h * w for h, w in SIZES.values()) / 1e6
    assert means["seconds_per_megapixel"] == pytest.approx(sum(row["seconds"] for row in measures.rows) / megapixels)
    assert means["peak_memory_mib"] == max(row["peak_memory_mib"] for row in measures.rows)
    assert measures.kept == {} and measures.series() == {"cycles": [], "curves": {}}
    assert means["seam_score"] is None and set(PhotographMeasures(evaluated, []).means().values()) == {None}


@pytest.mark.parametrize("overrides", [(), ("refine=2",), ("infer.noise=field", "infer.seed=3", "refine_style=2")])
def test_inversions_are_those_that_the_options_ask_for(measured, overrides):
    evaluated, measures = measured("details=1", *overrides)
    (kept,) = measures.kept.values()
    options = evaluated.infer
    expected = evaluated.model.invert(
        PIXELS["a"], refine=options.refine, style_steps=options.refine_style, noise=kept.latents.noise
    )
    assert (kept.latents.noise is not None) == (options.noise == "field")
    assert np.array_equal(kept.result, evaluated.model.draw(expected))


def test_cycles_invert_the_result_of_the_one_before(measured):
    evaluated, measures = measured("details=3", "cycles=3")
    model, expected = evaluated.model, []
    for pixels in PIXELS.values():
        results = [pixels]
        for _ in range(3):
            results.append(model.draw(model.invert(results[-1])))
        expected.append([pixelwise(pixels, result)["psnr"] for result in results[1:]])
    found = measures.series()["cycles"]
    assert [point["cycle"] for point in found] == [1, 2, 3]
    assert [point["psnr"] for point in found] == pytest.approx(np.mean(expected, axis=0))


@pytest.mark.parametrize(("block", "refine"), [(32, 0), (32, 2), (31, 0)])
def test_seams_are_those_of_blocks_of_their_size(measured, capsys, block, refine):
    """Of an encoder that equals the whole they are none, whether latents are refined or not."""
    _, measures = measured("details=2", "cycles=1", f"seam_block={block}", f"refine={refine}")
    score = measures.means()["seam_score"]
    assert score == (pytest.approx(1, abs=1e-3) if block == 32 else None)
    assert ("evaluate.seam_block: 31 px, but 32 are needed" in capsys.readouterr().out) == (block == 31)


def test_edits_are_in_the_style_of_the_next_image(measured):
    evaluated, measures = measured("details=3", "cycles=1", "pictures=3", discriminator=Brightness())
    model, kept = evaluated.model, measures.kept
    means, pictures = measure_edits(evaluated, kept)
    edits, pairs = {}, []
    for name, other in ("ab", "bc", "ca"):
        latents = kept[name].latents
        edits[name] = model.draw(latents.with_style(kept[other].latents.style))
        pairs.append((window(model, model.invert(edits[name])), window(model, latents)))
        assert list(pictures[name]) == [name, f"style of {other}", "tiny: edit"]
        assert all(map(np.array_equal, pictures[name].values(), (PIXELS[name], PIXELS[other], edits[name])))
    assert means["edit_consistency"] == pytest.approx(1 - relative_error(pairs))
    assert means["edit_score"] == pytest.approx(np.mean([edit.mean() for edit in edits.values()]))
    assert means["real_score"] == pytest.approx(np.mean([pixels.mean() for pixels in PIXELS.values()]))
    assert means["reconstruction_score"] != means["real_score"]


def test_pictures(measured):
    _, measures = measured("details=0", "pictures=2")
    assert list(measures.pictures) == ["a", "c"]
    photograph, (label, result), (_, error) = measures.pictures["a"]["a"], *list(measures.pictures["a"].items())[1:]
    assert np.array_equal(photograph, PIXELS["a"]) and label == f"tiny, {measures.rows[0]['psnr']:.2f} dB"
    assert np.array_equal(error, np.minimum(abs(photograph.astype(int) - result) * 4, 255))


def test_curves_are_means_over_the_images(measured):
    _, measures = measured("details=0", "optimized=2", "optimization_steps=2")
    curves = measures.series()["curves"]
    assert len(curves["refinement"]) == len(REFINEMENTS) and len(curves["random latents"]) == 3
    first, last = curves["refinement"][0], curves["refinement"][-1]
    assert first["psnr"] == pytest.approx(np.mean([measures.rows[k]["psnr"] for k in (0, 2)]), abs=0.01)
    assert last["psnr"] > first["psnr"] and last["seconds"] > first["seconds"] > 0


@pytest.mark.parametrize("sizes", [(3, 3), (5, 2), (2, 0), (0, 0)])
def test_distances_and_floors_are_of_as_many_images(checkpoint, sizes):
    evaluated = tiny_evaluated(checkpoint, "generated=4", "generated_size=40")
    patches = np.stack([noise(40, 40, seed) for seed in range(8)])
    real = patches[: sizes[0]], patches[8 - sizes[1] :]
    means, series = run.measure_generated(evaluated, [], real)
    count = {3: 3, 5: 2, 2: 2, 0: None}[sizes[0]]
    assert means.get("distance_images") == count and means["reciprocal_error"] > 0 and "fid" not in means
    assert [level["size"] for level in series["pyramid"]] == ([40, 20] if count else [])
    if count:
        generated = run.generated_set(evaluated.model, 40, range(count))
        assert means["swd"] == mean(x["distance"] for x in run.pyramid_distances(generated, real[0][:count], 0))
    if sizes[1]:
        floor = run.pyramid_distances(real[1][:count], real[0][:count], 0)
        assert means["swd_floor"] == mean(level["distance"] for level in floor)
    else:
        assert means.get("swd_floor") is None


def test_fid_is_that_of_the_generated_images(checkpoint):
    """With the mean colours as features, in place of Inception's."""

    def colours(images):
        return images.mean((1, 2))

    evaluated = tiny_evaluated(checkpoint, "generated=4", "generated_size=40", "scales=[1,3]", inception=colours)
    real = tuple(np.stack([noise(40, 40, 9 * side + k) for k in range(3)]) for side in range(2))
    means, series = run.measure_generated(evaluated, [], real)

    def fid(first, second):
        return run.frechet_distance(*(run.gaussian_of(colours(images)) for images in (first, second)))

    assert means["fid"] == pytest.approx(fid(run.generated_set(evaluated.model, 40, range(3)), real[0]))
    assert means["fid_floor"] == pytest.approx(fid(*real))
    large = run.generated_set(evaluated.model, 40, range(3), scale=3)
    assert [row["scale"] for row in series["scale_invariant_fid"]] == [1, 3]
    assert [row["fid"] for row in series["scale_invariant_fid"]] == pytest.approx([means["fid"], fid(large, real[0])])


def test_the_machine_and_the_networks(checkpoint):
    evaluated = tiny_evaluated(checkpoint)
    count = sum(p.numel() for p in evaluated.model.generator.parameters())
    assert run.machine(torch.device("cpu"))["torch"] == torch.__version__
    assert run.parameters(evaluated)["generator"] == count > 100 < run.parameters(evaluated)["encoders"]


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(9, 3, [0, 4, 8]), (4, 9, [0, 1, 2, 3]), (3, 0, []), (0, 5, [])]
)
def test_details_are_spread_evenly(total, count, expected):
    assert spread([str(k) for k in range(total)], count) == [str(k) for k in expected]


def test_means_leave_out_what_is_no_number():
    cases = [([1, None, 3], 2), ([float("inf"), 5.0], 5), ([], None), ([None], None)]
    assert [mean(values) for values, _ in cases] == [expected for _, expected in cases]
    assert ratio(1, 0) is None and ratio(1, 2) == 0.5
    assert all(each.note.endswith(".") for each in MEASURES.values())
