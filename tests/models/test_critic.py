"""The critic of latents: it sees what is small."""

import torch

from models.critic import LatentCritic
from models.statistics import measure
from models.trunk import Trunk


def test_faint_noise_in_a_flat_image_shows_in_bfloat16():
    """What it changes in the scores of patches is what it changes in float32; pixels of bfloat16 would hide it."""
    torch.manual_seed(0)
    critic, trunk = LatentCritic(8, 8, [16, 16], [16, 16], 2, True), Trunk(8, 4)
    flat = torch.zeros(4, 8, 8, 8)
    flat[:, :3] = 2.0
    noise = torch.cat([torch.zeros(4, 3, 8, 8), 0.01 * torch.randn(4, 5, 8, 8)], 1)
    style, changes = measure(flat.flatten(2)).float(), []
    for short in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=short):
            before, after = (critic(z, style, torch.zeros(4), trunk) for z in (flat, flat + noise))
        assert [score.shape for score in after] == [(4,), (4, 8, 8), (2, 7, 7)]
        changes.append((after[2] - before[2]).flatten())
    assert torch.corrcoef(torch.stack(changes))[0, 1] > 0.7
