"""Tools with the networks of a tiny checkpoint."""

from inversion.tool import Tool
from utils.config import load_config
from utils.schema import InferConfig


def tiny_tool(checkpoint, *overrides):
    """A tool on the CPU; `overrides`: single `infer` options."""
    options = load_config(InferConfig, None, ["infer.device=cpu", "infer.dtype=float32", *overrides]).infer
    return Tool.load(checkpoint, options, encoders=False)
