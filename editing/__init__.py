"""Edits: functions that make latents, or films, of latents. Nothing is drawn before it is asked for."""

from editing.fuse import fuse
from editing.inbetween import inbetween
from editing.interpolate import interpolate
from editing.mix import mix
from editing.outpaint import outpaint
from editing.pan import pan
from editing.resample import resample
from editing.restyle import restyle

__all__ = ["fuse", "inbetween", "interpolate", "mix", "outpaint", "pan", "resample", "restyle"]
