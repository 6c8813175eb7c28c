"""Edits: functions that make latents, or films, of latents. Nothing is drawn before it is asked for."""

from editing.content import Content
from editing.direction import find_direction, move
from editing.fill import fill
from editing.fuse import fuse
from editing.inbetween import inbetween
from editing.interpolate import interpolate
from editing.outpaint import outpaint
from editing.pan import pan
from editing.resample import resample
from editing.restyle import mix, restyle

__all__ = [
    "Content", "fill", "find_direction", "fuse", "inbetween", "interpolate", "mix", "move", "outpaint", "pan",
    "resample", "restyle",
]  # fmt: skip
