"""Edits: functions that make latents of latents. Nothing is drawn here; `PatchInverter.draw` does, by window."""

from editing.direction import find_direction, move
from editing.fuse import fuse
from editing.inbetween import inbetween
from editing.outpaint import outpaint
from editing.resample import resample

__all__ = ["find_direction", "fuse", "inbetween", "move", "outpaint", "resample"]
