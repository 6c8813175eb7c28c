"""Known parts of photographs that are hidden and made anew."""


import numpy as np
import pytest

from evaluation.edits import measure_monotony
from evaluation.hidden import beside, compare, inside_frame, measure_hidden, square, steepness
from evaluation.photographs import Inversion
from images.reading import open_image
from tests.evaluation.tiny import noise, tiny_evaluated
from tests.inversion.conftest import photograph


def inversions(evaluated, *images):
    """Inversions of arrays, by number."""
    opened = [open_image(image, 10**6) for image in images]
    latents = [evaluated.invert(image) for image in opened]
    results = map(evaluated.model.draw, latents)
    return {str(n): Inversion(*each) for n, each in enumerate(zip(opened, latents, results, strict=True))}


def test_all_measures_of_models_with_and_without_a_trunk(checkpoint, trunk_checkpoint):
    for path, sources in ((checkpoint, ["_generator"]), (trunk_checkpoint, ["", "_generator"])):
        evaluated = tiny_evaluated(path)
        kept = inversions(evaluated, photograph(130, 140), photograph(40, 200))
        found = measure_hidden(evaluated, kept)
        kinds = [f"{key}{end}" for key in ("frechet", "psnr", "gradients") for end in sources] + ["frechet_floor"]
        assert set(found) == {f"{name}_{kind}" for name in ("fill", "outpaint") for kind in kinds}
        assert all(np.isfinite(value) for value in found.values())
        steps = measure_monotony(evaluated, kept)
        assert (steps is None) if path == checkpoint else 0.5 < steps <= 1
    assert measure_hidden(evaluated, {"1": kept["1"]}) == {}  # too small


def test_what_is_new_is_compared():
    image, box = noise(140, 150), (40, 50, 104, 114)
    new = image.copy()
    new[40:104, 50:114] = 255 - new[40:104, 50:114]
    pixels = {"features": lambda windows: windows.reshape(len(windows), -1)[:, :5].astype(float), "boxes": [box]}
    same, inside, outside = (
        compare(wanted=noise(9, 5)[..., 0].astype(float), photographs=[image], results=[result], inside=where, **pixels)
        for result, where in ((image, True), (new, True), (new, False))
    )
    assert same["psnr"] is None and outside["psnr"] is None and same["gradients"] == 1  # nothing differs
    error = np.square(255 - 2.0 * image[40:104, 50:114]).mean()
    assert inside["psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    assert inside["gradients"] == pytest.approx(steepness(new, box) / steepness(image, box))


def test_windows_lie_on_the_borders():
    image = np.zeros((150, 200, 3), np.uint8)
    image[40:100, 60:140] = 255
    windows = beside(image, (40, 60, 100, 140), 32)
    assert windows.shape == (4, 32, 32, 3) and all(abs(int(each.mean()) - 127) < 2 for each in windows)
    assert beside(image, (0, 0, 150, 200), 64).shape == (4, 64, 64, 3)
    for number in range(20):
        top, left, bottom, right = square(image, 64, number)
        assert 32 <= top < bottom <= 118 and 32 <= left < right <= 168 and bottom - top == right - left == 64
    with pytest.raises(ValueError, match="allowed: 128 pixels"):
        square(image[:127], 64, 0)
    assert inside_frame(image, 8) == (16, 24, 132, 175)
