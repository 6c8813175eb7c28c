"""The parts of a checkpoint's evaluation whose result is known; all of it together is tested with evaluate.py."""

import base64

import numpy as np
import pytest
import torch

from evaluation import photographs, run
from evaluation.fidelity import pixelwise
from evaluation.measures import mean
from evaluation.sets import generated_set
from evaluation.swd import pyramid_distances
from images.reading import open_image
from losses.frechet import frechet_distance
from tests.evaluation.tiny import PIXELS, SIZES, noise, tiny_evaluated, write_photographs

NOTHING = np.empty((2, 0, 128, 128, 3), np.uint8)  # real sets


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"))


class Brightness:
    """Stands for a discriminator, and for LPIPS."""

    def __call__(self, images, seed):
        return mean(image.mean() for image in images) if seed == 0 else None

    def distance(self, reconstruction, target):
        assert reconstruction.shape == target.shape and target.min() >= -1 and target.max() <= 1
        return (reconstruction - target).abs().mean()


def evaluate(checkpoint, files, *overrides, **metrics):
    """An evaluated model, its entry, and pictures; without generated images."""
    evaluated = tiny_evaluated(checkpoint, "generated=0", "cycles=1", *overrides, **metrics)
    return evaluated, *run.evaluate_checkpoint(evaluated, files, NOTHING)


def test_figures_of_images_and_their_means(checkpoint, files):
    evaluated, entry, _ = evaluate(checkpoint, files, "details=0", lpips=Brightness())
    rows, means = entry["images"], entry["means"]
    assert [(row["name"], row["height"], row["width"]) for row in rows] == [(k, *v) for k, v in SIZES.items()]
    for row in rows:
        result = evaluated.model.draw(evaluated.model.invert(PIXELS[row["name"]]))
        assert {key: row[key] for key in ("psnr", "ssim")} == pixelwise(PIXELS[row["name"]], result)
        difference = np.abs(np.subtract(result, PIXELS[row["name"]], dtype=float))
        assert row["lpips"] == pytest.approx(difference.mean() / 127.5)
        assert 0 < row["ms_ssim"] < 1 and row["seconds"] > 0 and row["peak_memory_mib"] >= 0
    megapixels = sum(h * w for h, w in SIZES.values()) / 1e6
    assert means["seconds_per_megapixel"] == pytest.approx(sum(row["seconds"] for row in rows) / megapixels)
    assert means["peak_memory_mib"] == max(row["peak_memory_mib"] for row in rows)
    assert means["psnr"] == pytest.approx(np.mean([row["psnr"] for row in rows]))
    assert entry["cycles"] == [] and entry["curves"] == {} and means["seam_score"] is None
    count = sum(p.numel() for p in evaluated.model.generator.parameters())
    assert entry["parameters"]["generator"] == count > 100 < entry["parameters"]["encoders"]
    assert run.machine(torch.device("cpu"))["torch"] == torch.__version__


def test_inversions_are_those_that_the_options_ask_for(checkpoint, files):
    options = "refine=1", "infer.noise=field", "infer.seed=3", "refine_style=1"
    evaluated = tiny_evaluated(checkpoint, "details=1", *options)
    _, _, kept = run.invert_all(evaluated, files, {})
    noise, options = kept["a"].latents.noise, evaluated.infer
    expected = evaluated.model.invert(PIXELS["a"], refine=options.refine, style_steps=options.refine_style, noise=noise)
    assert noise is not None
    assert np.array_equal(kept["a"].result, evaluated.model.draw(expected))


def test_cycles_invert_the_result_of_the_one_before(checkpoint, files):
    evaluated = tiny_evaluated(checkpoint, "details=3", "cycles=2")
    _, _, kept = run.invert_all(evaluated, files, {})
    expected = []
    for pixels in PIXELS.values():
        results = [pixels]
        for _ in range(2):
            results.append(evaluated.model.draw(evaluated.model.invert(results[-1])))
        expected.append([pixelwise(pixels, result)["psnr"] for result in results[1:]])
    found = [[point["psnr"] for point in photographs.measure_cycles(evaluated, each)] for each in kept.values()]
    assert found == [pytest.approx(each) for each in expected]


@pytest.mark.parametrize(("block", "refine"), [(32, 1), (31, 0)])
def test_seams_are_those_of_blocks_of_their_size(checkpoint, files, block, refine):
    """Of an encoder that equals the whole they are none, also where latents are refined; blocks may be too small."""
    _, entry, _ = evaluate(checkpoint, files, "details=1", f"seam_block={block}", f"refine={refine}")
    assert entry["means"]["seam_score"] == (pytest.approx(1, abs=1e-3) if block == 32 else None)


def test_pictures(checkpoint, files):
    _, entry, pictures = evaluate(checkpoint, files, "details=0", "pictures=2")
    assert list(pictures["Inversions"]) == ["a", "c"] and pictures["Edits"] == {}
    shown = pictures["Inversions"]["a"]
    assert list(shown) == ["a", f"tiny, {entry['images'][0]['psnr']:.2f} dB", "tiny: error × 4"]
    found = [open_image(base64.b64decode(address.partition(",")[2]), 10**6) for address in shown.values()]
    assert [(image.height, image.width) for image in found] == [SIZES["a"]] * 3
    grey = found[0].window(0, 0, *SIZES["a"]).mean(2)
    assert np.corrcoef(grey.ravel(), PIXELS["a"].mean(2).ravel())[0, 1] > 0.8


def test_curves_are_means_over_the_images(checkpoint, files, monkeypatch):
    monkeypatch.setattr(photographs, "REFINEMENTS", (0, 5))
    _, entry, _ = evaluate(checkpoint, files, "details=0", "optimized=2", "optimization_steps=2", "pictures=0")
    curves = entry["curves"]
    assert len(curves["refinement"]) == 2 and len(curves["random latents"]) == 3
    first, last = curves["refinement"][0], curves["refinement"][-1]
    assert first["psnr"] == pytest.approx(np.mean([entry["images"][k]["psnr"] for k in (0, 2)]), abs=0.01)
    assert last["psnr"] > first["psnr"] and last["seconds"] > first["seconds"] > 0


@pytest.mark.parametrize("sizes", [(5, 2), (2, 0), (0, 0)])
def test_distances_and_floors_are_of_as_many_images(checkpoint, sizes):
    evaluated = tiny_evaluated(checkpoint, "generated=4", "generated_size=40")
    patches = np.stack([noise(40, 40, seed) for seed in range(8)])
    real = patches[: sizes[0]], patches[8 - sizes[1] :]
    means, series = run.measure_generated(evaluated, [], real)
    count = {5: 2, 2: 2, 0: None}[sizes[0]]
    assert means.get("distance_images") == count and means["reciprocal_error"] > 0 and "fid" not in means
    assert [level["size"] for level in series["pyramid"]] == ([40, 20] if count else [])
    if count:
        generated = generated_set(evaluated.model, 40, range(count))
        assert means["swd"] == mean(pyramid_distances(generated, real[0][:count], 0).values())
    floor = pyramid_distances(real[1][:count], real[0][:count], 0).values() if sizes[1] else []
    assert means.get("swd_floor") == mean(floor)


def test_fid_is_that_of_the_generated_images(checkpoint):
    """With the mean colours as features, in place of Inception's."""

    def colours(images):
        return images.mean((1, 2))

    evaluated = tiny_evaluated(checkpoint, "generated=4", "generated_size=40", "scales=[1,3]", inception=colours)
    real = tuple(np.stack([noise(40, 40, 9 * side + k) for k in range(3)]) for side in range(2))
    means, series = run.measure_generated(evaluated, [], real)
    sets = [generated_set(evaluated.model, 40, range(3), scale) for scale in (1, 3)] + [real[1]]
    expected = [frechet_distance(colours(images), colours(real[0])) for images in sets]
    assert [means["fid"], means["fid_floor"]] == pytest.approx([expected[0], expected[2]])
    assert [row["scale"] for row in series["scale_invariant_fid"]] == [1, 3]
    assert [row["fid"] for row in series["scale_invariant_fid"]] == pytest.approx(expected[:2])


def test_means_leave_out_what_is_no_number():
    assert [mean(values) for values in ([1, None, 3], [float("inf"), 5.0], [], [None])] == [2, 5, None, None]
