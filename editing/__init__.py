"""Edits: functions that make latents of latents. Nothing is drawn here; `PatchInverter.draw` does, by window."""

from editing.content import Content
from editing.fill import fill
from editing.fuse import fuse
from editing.inbetween import inbetween
from editing.outpaint import outpaint
from editing.resample import resample

__all__ = ["Content", "fill", "fuse", "inbetween", "outpaint", "resample"]
