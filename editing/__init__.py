"""Edits: functions that make latents of latents. Nothing is drawn here; `PatchInverter.draw` does, by window."""

from editing.fuse import fuse
from editing.inbetween import inbetween
from editing.outpaint import outpaint
from editing.resample import resample

__all__ = ["fuse", "inbetween", "outpaint", "resample"]
