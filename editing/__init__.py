"""Edits: functions that make latents of latents. Nothing is drawn here; `PatchInverter.draw` does, by window."""

from editing.fuse import fuse
from editing.inbetween import inbetween
from editing.mix import mix
from editing.outpaint import outpaint
from editing.resample import resample
from editing.restyle import restyle

__all__ = ["fuse", "inbetween", "mix", "outpaint", "resample", "restyle"]
