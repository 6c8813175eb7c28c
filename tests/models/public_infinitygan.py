"""A small checkpoint in the layout of the public InfinityGAN code: patches of 8 cells, which draw 29 pixels."""

from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"


def public_generator(shift=0.0):
    """A generator's state dict; `shift` is added to its biases."""
    state = load_file(GOLDEN / "infinitygan_state_dict.safetensors")
    unused = {"const_z.input": torch.ones(1, 4, 4, 4), "a.tmp_var.b": torch.ones(3)}
    state |= {f"texture_synthesizer.{name}": value for name, value in unused.items()}
    return {name: value + shift if name.endswith("activate.bias") else value for name, value in state.items()}


def public_discriminator():
    """A discriminator's state dict."""
    return load_file(GOLDEN / "infinitygan_discriminator_state_dict.safetensors")


def public_checkpoint(**changed):
    """The dict that the public code saves; None leaves a key out."""
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.002, "params": [0]}]}
    held = {
        "iter": 1234,
        "best_fid": 11.25,
        "g": public_generator(shift=0.5),
        "d": public_discriminator(),
        "g_ema": public_generator(),
        "g_optim": optimizer,
        "d_optim": optimizer,
        "mean_path_lengths": [torch.tensor(1.5)],
    } | changed
    return {name: value for name, value in held.items() if value is not None}
