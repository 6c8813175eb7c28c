"""Edits: functions that make latents, or films, of latents. Nothing is drawn before it is asked for."""

from editing.fuse import fuse
from editing.inbetween import inbetween
from editing.interpolate import interpolate
from editing.outpaint import outpaint
from editing.pan import pan
from editing.resample import resample

__all__ = ["fuse", "inbetween", "interpolate", "outpaint", "pan", "resample"]
