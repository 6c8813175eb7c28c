"""Images for training: sources, splits, crops, loading. `build` turns the config's `data` section into datasets."""

from __future__ import annotations

from functools import partial

from datasets.crops import CropDataset, Window
from datasets.loading import load
from datasets.sources import open_source
from datasets.splits import refuse_shared, split
from images.resizing import check_side
from utils.errors import UserError

__all__ = ["CropDataset", "Window", "build", "load"]


def build(config: dict, window: Window, thumbnail: int, seed: int) -> tuple[CropDataset, CropDataset]:
    """Training and validation data of a `data` section; sizes as in CropDataset. UserError where it is wrong."""
    if config.train is None:
        raise UserError("data.train is not set: a folder of images or an LMDB is needed")
    if config.resize is not None:
        check_side("data.resize", config.resize, config.max_pixels)
    train_source = val_source = open_source(config.train)
    if config.val is None:
        train_records, val_records = split(train_source.digests(), config.val_fraction)
    else:
        val_source = open_source(config.val)
        refuse_shared(train_source, val_source)
        train_records, val_records = list(range(len(train_source))), list(range(len(val_source)))
    shared = {key: config[key] for key in ("resize", "max_pixels", "max_bad_fraction")}
    crops = partial(CropDataset, window=window, thumbnail=thumbnail, seed=seed, **shared)
    return crops(train_source, train_records, flip=config.flip), crops(val_source, val_records)
