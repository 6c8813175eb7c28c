"""What an evaluation measures: the name, unit and meaning of every number in `means`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Measure(NamedTuple):
    """How a measure is shown and read."""

    title: str
    unit: str  # empty: none
    better: str  # higher | lower | one (the nearer to 1) | none
    digits: int  # after the point
    note: str  # what it is, in a sentence


MEASURES = {
    "psnr": Measure("PSNR", "dB", "higher", 2, "Peak signal-to-noise ratio of the 8-bit reconstruction."),
    "values_per_pixel": Measure("Rate", "values / pixel", "lower", 3, "Channels of structure latents over pixels of a "
                                "cell."),
    "psnr_linear": Measure("PSNR, linear", "dB", "none", 2, "Of a lapped orthogonal transform of as many values."),
    "ssim": Measure("SSIM", "", "higher", 3, "Structural similarity (Wang et al. 2004)."),
    "ms_ssim": Measure("MS-SSIM", "", "higher", 3, "Over up to five scales (Wang et al. 2003); of up to 4 megapixels."),
    "lpips": Measure("LPIPS", "", "lower", 3, "AlexNet's, version 0.1 (Zhang et al. 2018); of up to 4 megapixels."),
    "seam_score": Measure("Seams", "", "one", 3, "Gradient at the borders of small blocks over that near them, divided "
                          "by the same of an inversion in one pass. 1: none."),
    "latent_mean_distance": Measure("Latent mean", "std", "lower", 3, "Distance of the channel means of encoded and "
                                    "generated structure latents, in standard deviations."),
    "latent_std_ratio": Measure("Latent spread", "", "one", 3, "Deviation of encoded over that of generated latents."),
    "latent_mmd": Measure("Latent MMD", "", "lower", 4, "Maximum mean discrepancy of encoded and generated latents."),
    "latent_mmd_floor": Measure("Latent MMD, floor", "", "none", 4, "The same of two halves of the generated latents."),
    "reciprocal_error": Measure("Reciprocal error", "", "lower", 3, "E(TS(z)) against z: mean squared error over the "
                                "variance of z. 0: the encoder inverts what is generated."),
    "reciprocal_error_encoded": Measure("Reciprocal error, encoded", "", "lower", 3, "The same of photographs' z."),
    "edit_colours": Measure("Edit: colours moved", "", "higher", 3, "Share of the way to the colours of the photograph "
                            "whose style it takes (sliced Wasserstein over RGB)."),
    "edit_gradients": Measure("Edit: gradients kept", "", "higher", 3, "Correlation of an edit's luminance gradients "
                              "with the photograph's, over that of the plain inversion."),
    "edit_consistency": Measure("Edit found again", "", "higher", 3, "Structure latents of an edit, encoded again, "
                                "against those that it was drawn from: 1 - squared error over variance."),
    "direction_monotony": Measure("Edit: steps taken", "", "higher", 3, "Share of the steps from -3 to 3 along the "
                                  "first component of styles that the styles of the results take as well."),
    "edit_score": Measure("Score of edits", "", "higher", 3, "The discriminator's, mean."),
    "reconstruction_score": Measure("Score of reconstructions", "", "higher", 3, "The discriminator's, mean."),
    "real_score": Measure("Score of photographs", "", "none", 3, "The discriminator's, mean."),
    "cycle_psnr_drop": Measure("Loss over cycles", "dB", "lower", 2, "PSNR of the first inversion minus the last."),
    "swd": Measure("SWD", "× 1000", "lower", 2, "Sliced Wasserstein distance of generated and real patches "
                   "(Karras et al. 2018), mean over the levels; as many of both."),
    "swd_floor": Measure("SWD, floor", "× 1000", "none", 2, "The same of patches of two halves of the photographs."),
    "fid": Measure("FID", "", "lower", 2, "Frechet Inception distance of generated and real patches, as many of both."),
    "fid_floor": Measure("FID, floor", "", "none", 2, "The same of patches of two halves of the photographs."),
    "frechet": Measure("Frechet distance", "", "lower", 2, "Of generated and real patches, as many of both, in the "
                       "features of a small classifier of scenes."),
    "frechet_floor": Measure("Frechet distance, floor", "", "none", 2, "The same of two halves of the photographs."),
    "coverage": Measure("Coverage", "", "higher", 2, "Share of real patches that have a generated one near (Naeem et "
                        "al. 2020), in the same features."),
    "distance_images": Measure("Images of a side", "", "none", 0, "Patches that SWD, FID, and their floors compare."),
    "seconds_per_megapixel": Measure("Time", "s / megapixel", "lower", 2, "Of inverting and drawing a megapixel."),
    "peak_memory_mib": Measure("Memory", "MiB", "lower", 0, "Peak of inverting and drawing, beyond what was held."),
}  # fmt: skip

for _key, _what in {"fill": "filled squares", "outpaint": "frames painted on"}.items():
    for _end, _source in {"": "from the photograph", "_generator": "by the generator"}.items():
        MEASURES |= {
            f"{_key}_frechet{_end}": Measure(f"Frechet distance, {_what} {_source}", "", "lower", 2, "Of windows "
                                             "across their borders and windows elsewhere in the photographs."),
            f"{_key}_psnr{_end}": Measure(f"PSNR, {_what} {_source}", "dB", "higher", 2, "Of what was hidden, which "
                                          "nothing can know."),
            f"{_key}_gradients{_end}": Measure(f"Borders, {_what} {_source}", "", "one", 2, "Gradient across them over "
                                               "that of the photographs there."),
        }  # fmt: skip
    MEASURES[f"{_key}_frechet_floor"] = Measure(
        f"Frechet distance, {_what}, floor", "", "none", 2, "The same of the photographs."
    )

# Measures of each image, by column.
PER_IMAGE = {key: MEASURES[key] for key in ("psnr", "values_per_pixel", "psnr_linear", "ssim", "ms_ssim", "lpips")} | {
    "seconds": Measure("Time", "s", "lower", 2, "Of inverting and drawing the image."),
    "peak_memory_mib": MEASURES["peak_memory_mib"],
}


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the finite values (an exact result has an infinite PSNR); None if there are none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
