"""Inversion of photographs of any size, block by block: `PatchInverter` is the program's interface."""

from inversion.inverter import PatchInverter
from inversion.latents import Latents
from inversion.styles import Style, StyleMap

__all__ = ["Latents", "PatchInverter", "Style", "StyleMap"]
