"""Tools with the networks of a tiny checkpoint."""

from inversion.tool import Tool
from utils.config import load_config


def tiny_tool(checkpoint, *overrides):
    """A tool on the CPU; `overrides`: single `infer` options."""
    options = load_config(None, ["infer.device=cpu", "infer.dtype=float32", *overrides], sections=("infer",)).infer
    return Tool.load(checkpoint, options, encoders=False)
