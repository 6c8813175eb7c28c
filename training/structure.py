"""The structure stage: a structure synthesizer learns to draw the latents that an inverter encodes photographs as.

Encoder and texture synthesizer stay as they are. A critic compares grids of encoded latents with drawn ones of the same
style, statistics of the encoded grid, at the same height in the image: latents and style are judged together, as in
BiGAN and ALI (ICLR 2017). The loss is relativistic, with gradient penalties on both sides (R3GAN, Huang et al., NeurIPS
2024).

Letters: B batch, K channels, S style vector, h/w latent cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets import CropDataset, Window
from images.writing import to_eight_bit
from losses.adversarial import r1_penalty
from losses.frechet import NEIGHBOURS, coverage, frechet_distance
from models import build_critic, build_encoders, build_generator
from models.generator import Generator
from models.geometry import Interval
from models.noise import gaussian_field
from models.scenes import SceneFeatures
from models.statistics import measure
from models.weights import export, fill, read_weights
from training.context import Stream, TrainContext
from training.optimization import averaged
from training.stage import Loss, Stage
from training.trunk import fit_styles
from utils.checkpoint import fingerprint
from utils.errors import UserError

SCORES = ("whole", "local", "texture")  # of the critic, as their weights are named


@dataclass
class Part:
    """Of a batch: encoded latents [B, K, h, w], their styles [B, S] and vertical positions [B].

    And what latents in these styles are drawn from, seeds [B], or these themselves.
    """

    real: Tensor
    style: Tensor
    row: Tensor
    seeds: Tensor | None = None
    made: Tensor | None = None


class StructureStage(Stage):
    """The structure synthesizer, its critic, their optimizers, and one training step."""

    exported = ("inverter.safetensors", "critic.safetensors")

    def __init__(self, config: dict, context: TrainContext) -> None:
        super().__init__(config, context)
        self.losses = config.losses
        if not self.model.trunk:
            raise UserError("train.stage: structure needs a model with a trunk (model.trunk: true)")
        context.check_batch(config.model.critic.minibatch_group, "model.critic.minibatch_group")
        self.cells = config.train.patch_cells
        generator = build_generator(config.model)
        self.texture = context.place(generator.texture).eval().requires_grad_(False)
        self.encoder = context.place(build_encoders(config.model)[0]).eval().requires_grad_(False)
        self.structure = self.add_network("structure", generator.structure)
        self.critic = self.add_network("critic", build_critic(config.model, self.cells), self.losses.r1_every)
        self.average = averaged(self.structure)
        cell, read = 2**config.model.stages, self.encoder.rule.receptive_field(Interval(0, self.cells - 1))
        self.window = Window(self.cells * cell, -read.first, read.last - self.cells * cell + 1)
        self.best = nn.Module()
        self.best.structure = averaged(self.structure)
        self.best.register_buffer("distance", torch.tensor(math.inf, dtype=torch.float64))
        self.state |= {"average": self.average, "best": self.best}

    def load_files(self) -> None:
        """Load the inverter, and the weights that the run goes on from. UserError for a file that is of no use."""
        settings, self.features = self.settings, SceneFeatures(self.context.device)
        if settings.inverter is None:
            raise UserError("train.inverter is not set: the structure stage needs an inverter run's file")
        weights = read_weights(settings.inverter)
        weights.fill("encoder", self.encoder)
        weights.fill("generator.texture", self.texture)
        if settings.generator is not None:
            for network in (self.structure, self.average, self.best.structure):
                read_weights(settings.generator).fill("generator.structure", network)
            self.structure.train()
        if settings.discriminator is not None:
            fill(settings.discriminator, {"critic": self.critic})
        self.conditions = {
            "train.patch_cells": self.cells,
            "fingerprint of train.inverter": fingerprint(self.encoder.state_dict()),
        }

    def prepare(self, images: CropDataset) -> None:
        """What standardises styles, and those that seeds choose from, unless the run goes on from other weights."""
        if self.settings.generator is None:
            fit_styles(self.encoder.trunk, [self.structure, self.average, self.best.structure], images)
        self.critic.condition.load_state_dict(
            self.critic.condition.state_dict()
            | {name: getattr(self.structure.mapping, name) for name in ("centre", "spread")}
        )

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of both networks on grids of encoded latents."""
        self.schedule(step)
        parts = [
            Part(*self.encode(real), context.seeds(Stream.LATENTS, step)) for context, real in self.context.parts(batch)
        ]
        if len(parts) == 1:
            parts[0].made = self._fake(parts[0])  # which serves both networks
        scalars = self.update("critic", parts, self._critic_loss)
        if self.losses.structure.penalty and step % self.losses.r1_every == 0:
            scalars |= self.update("critic", parts, self._penalty)
        scalars |= self.update("structure", parts, self._structure_loss)
        self.follow(self.structure, step)
        return scalars

    def _fake(self, part: Part) -> Tensor:
        """Latents [B, K, h, w] in the styles of a part."""
        if part.made is not None:
            return part.made
        with self.context.autocast():
            return self.draw(self.structure, part.seeds, part.style, part.row)

    @torch.no_grad()
    def _fixed_fake(self, part: Part) -> Tensor:
        return self._fake(part).detach()

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Encoded latents [B, K, h, w], their styles [B, S], and vertical positions [B]."""
        z = self.encoder(batch["window"])
        return z, measure(z.flatten(2)).float(), batch["row"].float()

    def draw(self, structure: nn.Module, seeds: Tensor, style: Tensor, row: Tensor, margin: int = 0) -> Tensor:
        """Latents [B, K, h, w] of seeds [B], in styles [B, S], at rows [B]; `margin`: cells around the grid."""
        grid, channels = structure.grid, structure.local_dim
        around = structure.rule.receptive_field(Interval(-margin, self.cells - 1 + margin))
        local = gaussian_field(seeds, range(channels), around.first, around.first, around.size, around.size)
        chosen = gaussian_field(seeds, range(-1, 0), 0, 0, 1, 4)[:, 0, 0]  # [B, 4]: column, jitter
        uniform = torch.special.ndtr(chosen)
        coordinates = grid.of_patches(
            (row * (grid.row_starts - 1) + grid.row_starts) / 2,  # row 0 is the middle of a canvas
            uniform[:, 0] * grid.horizontal_period,
            around.size,
            uniform[:, 1:] - 0.5,
        )
        return structure(local.contiguous(memory_format=torch.channels_last), style, coordinates)

    def judge(self, part: Part, z: Tensor) -> dict[str, Tensor]:
        """The critic's scores of latents [B, K, h, w] beside the style and position of a part, by their names."""
        return dict(zip(SCORES, self.critic(z, part.style, part.row, self.encoder.trunk), strict=True))

    def _critic_loss(self, part: Part) -> Loss:
        drawn = self._fixed_fake(part)
        with self.context.autocast():
            of_real, of_drawn = self.judge(part, part.real), self.judge(part, drawn)
        total, scalars = self._relativistic("critic", of_real, of_drawn)
        scalars |= {"critic/real": of_real["whole"].mean().detach()}
        return total, scalars | {"critic/fake": of_drawn["whole"].mean().detach()}

    def _penalty(self, part: Part) -> Loss:
        weights, terms = self.losses.structure, {}
        for name, z in ("real", part.real), ("fake", self._fixed_fake(part)):
            z = z.float().requires_grad_(True)
            scores = self.judge(part, z)  # float32: a small difference of large numbers
            means = [weights[each] * score.view(len(score), -1).mean(1) for each, score in scores.items()]
            terms[name] = r1_penalty(torch.cat(means), z)
        scalars = {f"critic/penalty_{name}": value.detach() for name, value in terms.items()}
        return weights.penalty / 2 * self.losses.r1_every * sum(terms.values()), scalars

    def _structure_loss(self, part: Part) -> Loss:
        drawn = self._fake(part)
        self.critic.requires_grad_(False)
        with self.context.autocast():
            with torch.no_grad():
                of_real = self.judge(part, part.real)
            loss = self._relativistic("structure", self.judge(part, drawn), of_real)
        self.critic.requires_grad_(True)
        return loss

    def _relativistic(self, network: str, high: dict[str, Tensor], low: dict[str, Tensor]) -> Loss:
        """The loss of a network that wants the first scores above the second ones, and its parts."""
        parts = {name: F.softplus(low[name] - high[name]).mean() for name in SCORES}
        total = sum(self.losses.structure[name] * value for name, value in parts.items())
        return total, {f"{network}/{name}": value.detach() for name, value in parts.items()}

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Image batches [N, 3, H, W] to show: photographs, and images in their styles by the averaged weights."""
        return {"photograph": self._photographs(batch), "generated": self._generated(batch, 0)}

    @torch.no_grad()
    def validate(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """The critic's score of photographs that are not trained on; how far images in their styles are from them.

        The averaged weights that are nearest so far are kept.
        """
        parts = [Part(*self.encode(batch)) for batch in batches]
        scores = [self.judge(part, part.real)["whole"].mean() for part in parts]
        real, drawn = (
            np.concatenate([self.features(_eight_bit(draw(batch, number))) for number, batch in enumerate(batches)])
            for draw in (lambda batch, _: self._photographs(batch), self._generated)
        )
        figures = {"validation/critic": float(torch.stack(scores).mean())}
        if len(real) > NEIGHBOURS:
            distance = frechet_distance(drawn, real)
            figures |= {"validation/frechet": distance, "validation/coverage": coverage(drawn, real)}
            if distance < self.best.distance:
                self.best.distance.fill_(distance)
                self.best.structure.load_state_dict(self.average.state_dict())
        return figures

    def _photographs(self, batch: dict[str, Tensor]) -> Tensor:
        before, patch = self.window.before, self.window.patch
        return batch["window"][..., before : before + patch, before : before + patch]

    def _generated(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Images [B, 3, P, P] in the styles and at the rows of a batch, by the averaged weights and own seeds."""
        _, style, row = self.encode(batch)
        seeds = number * len(style) + torch.arange(len(style), device=style.device)
        needed = self.texture.rule.receptive_field(Interval(0, self.window.patch - 1))
        margin = max(-needed.first, needed.last + 1 - self.cells)
        cells = Interval(-margin, self.cells - 1 + margin)
        z = self.draw(self.average, seeds, style, row, margin)
        drawn = self.texture(z, self.texture.mapping(style), None, (cells.first, cells.first))
        inside = Interval(0, self.window.patch - 1).slice_in(self.texture.rule.valid_output(cells))
        return drawn[..., inside, inside]

    def export(self, folder: Path, step: int) -> list[Path]:
        """Write the inverter with the best averaged structure synthesizer, and the critic; their paths.

        Before a validation that is the last one.
        """
        paths = [folder / name for name in self.exported]
        structure = self.best.structure if torch.isfinite(self.best.distance) else self.average
        networks = {"generator": Generator(structure, self.texture), "encoder": self.encoder}
        export(paths[0], self.model, networks, step)
        export(paths[1], self.model, {"critic": self.critic}, step)
        return paths


def _eight_bit(images: Tensor) -> np.ndarray:
    """[N, 3, H, W] in [-1, 1] as uint8 [N, H, W, 3]."""
    return to_eight_bit(images.permute(0, 2, 3, 1)).cpu().numpy()
