"""Images for training: sources, splits, crops, loading. `build` turns the config's `data` section into datasets."""

from __future__ import annotations

from datasets.crops import CropDataset, Window
from datasets.loading import CropLoader, loader, loader_options
from datasets.sources import Source, combined_digest, open_source
from datasets.splits import refuse_shared, split
from images.resizing import check_side
from utils.errors import UserError

__all__ = ["NO_VALIDATION", "CropDataset", "CropLoader", "Window", "build", "loader", "loader_options"]

NO_VALIDATION = "none"  # in place of data.val


def build(config: dict, window: Window, thumbnail: int, seed: int) -> tuple[CropDataset, CropDataset]:
    """Training and validation data of a `data` section; sizes as in CropDataset. UserError where it is wrong.

    Without validation (data.val=none) the second one is empty.
    """
    if config.train is None:
        raise UserError("data.train is not set: a folder of images, a zip file or an LMDB is needed")
    if config.resize is not None:
        check_side("data.resize", config.resize, config.max_pixels)
    train_source = val_source = open_source(config.train)
    if config.val in (None, NO_VALIDATION):
        fraction = 0.0 if config.val else config.val_fraction
        train_records, val_records = split(train_source.digests, fraction)
    else:
        val_source = open_source(config.val)
        refuse_shared(train_source, val_source)
        train_records, val_records = list(range(len(train_source))), list(range(len(val_source)))

    def crops(source: Source, records: list[int], flip: bool = False) -> CropDataset:
        shared = {key: config[key] for key in ("resize", "max_pixels", "max_bad_fraction")}
        identity = combined_digest(source.digests[record] for record in records)
        return CropDataset(
            source, records, window, thumbnail=thumbnail, seed=seed, flip=flip, identity=identity, **shared
        )

    return crops(train_source, train_records, config.flip), crops(val_source, val_records)
