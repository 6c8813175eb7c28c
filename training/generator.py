"""The generator stage: structure and texture synthesizer against the discriminator (InfinityGAN, ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets import Window
from losses.adversarial import (
    coordinate,
    discriminator_logistic,
    diversity,
    generator_logistic,
    path_lengths,
    path_penalty,
    r1_penalty,
)
from models import build_discriminator, build_generator, patch_pixels
from models.weights import export, fill, read_weights
from training.context import Stream, TrainContext
from training.latents import PatchLatents, draw_latents, normal
from training.optimization import averaged
from training.stage import Loss, Stage

Made = tuple[Tensor, Tensor, Tensor]  # patches, structure latents, styles


@dataclass
class Part:
    """Of a batch: real patches, and what generated ones are made from, or these themselves."""

    real: dict[str, Tensor]
    latents: PatchLatents
    made: Made | None = None


class GeneratorStage(Stage):
    """Both networks, their optimizers, and one training step; its pictures are judged by eye, and by evaluate.py."""

    exported = ("generator.safetensors", "discriminator.safetensors")

    def __init__(self, config: dict, context: TrainContext) -> None:
        super().__init__(config, context)
        self.losses, self.cells = config.losses, config.train.patch_cells
        context.check_pairs()
        context.check_batch(config.model.discriminator.minibatch_group, "model.discriminator.minibatch_group")
        self.generator = self.add_network("generator", build_generator(config.model), self.losses.path_length_every)
        self.window = Window(patch_pixels(self.generator, self.cells).size, before=0, after=0)
        discriminator = build_discriminator(config.model, self.window.patch)
        self.discriminator = self.add_network("discriminator", discriminator, self.losses.r1_every)
        self.average, self.average_ramps_up = averaged(self.generator), True
        self.path_mean = nn.Module()
        self.path_mean.register_buffer("value", torch.zeros((), device=context.device))
        self.state |= {"average": self.average, "path_mean": self.path_mean}
        self.conditions = {"train.patch_cells": self.cells}

    def load_files(self) -> None:
        """Load the weights that the run goes on from, if any are named. UserError for a file that is of no use.

        Of train.generator also its moving averages, where it has them: `average` and `path_mean`.
        """
        if self.settings.generator is not None:
            weights = read_weights(self.settings.generator)
            weights.require_generator_of(self.model)
            weights.fill("generator", self.generator).train()
            self.average_ramps_up = not weights.has("average")
            weights.fill("generator" if self.average_ramps_up else "average", self.average)
            self.path_mean.value.copy_(weights.value("path_mean", 0.0))
        if self.settings.discriminator is not None:
            fill(self.settings.discriminator, {"discriminator": self.discriminator})

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of both networks on real patches."""
        self.schedule(step)
        mixing = self.settings.style_mixing
        parts = [
            Part(real, draw_latents(context, Stream.LATENTS, step, self.generator, self.cells, mixing))
            for context, real in self.context.parts(batch)
        ]
        if len(parts) == 1:
            # the same fakes serve both networks: a third of the generator's work less than drawing them anew
            parts[0].made = self._generate(parts[0].latents)

        scalars = self.update("discriminator", parts, self._discriminator_loss)
        if self.losses.generator.r1 and step % self.losses.r1_every == 0:
            scalars |= self.update("discriminator", parts, self._r1)
        scalars |= self.update("generator", parts, self._generator_loss)
        if self.losses.generator.path_length and step % self.losses.path_length_every == 0:
            scalars |= self._path_step(step)
        self.follow(self.generator, step if self.average_ramps_up else None)
        return scalars

    def _generate(self, latents: PatchLatents) -> Made:
        """Patches [B, 3, P, P], their structure latents [B, C, h, w] and their styles [B, L + 1, D]."""
        with self.context.autocast():
            styles = latents.styles(self.generator)
            return *latents.generate(self.generator, styles), styles

    def _discriminator_loss(self, part: Part) -> Loss:
        with torch.no_grad():
            fake = (part.made or self._generate(part.latents))[0].detach()
        with self.context.autocast():
            real_scores, real_guess, _ = self.discriminator(part.real["window"])
            fake_scores, fake_guess, _ = self.discriminator(fake)
        loss = discriminator_logistic(real_scores, fake_scores)
        guess = coordinate(real_guess, part.real["row"]) + coordinate(fake_guess, part.latents.row)
        return loss + self.losses.generator.coordinate * guess, {
            "discriminator/logistic": loss.detach(),
            "discriminator/coordinate": guess.detach(),
            "discriminator/real": real_scores.mean().detach(),
            "discriminator/fake": fake_scores.mean().detach(),
        }

    def _r1(self, part: Part) -> Loss:
        real = part.real["window"].detach().requires_grad_(True)
        scores, _, _ = self.discriminator(real)  # float32: the penalty is a small difference of large numbers
        penalty = r1_penalty(scores, real)
        weight = self.losses.generator.r1 / 2 * self.losses.r1_every
        return weight * penalty, {"discriminator/r1": penalty.detach()}

    def _generator_loss(self, part: Part) -> Loss:
        fake, z_s, _ = part.made or self._generate(part.latents)
        self.discriminator.requires_grad_(False)
        with self.context.autocast():
            scores, guess, _ = self.discriminator(fake)
        self.discriminator.requires_grad_(True)
        terms = {
            "adversarial": generator_logistic(scores),
            "coordinate": coordinate(guess, part.latents.row),
            "diversity": diversity(part.latents.z_l, z_s),
        }
        loss = sum(self.losses.generator[name] * value for name, value in terms.items())
        return loss, {f"generator/{name}": value.detach() for name, value in terms.items()}

    def _path_step(self, step: int) -> dict[str, Tensor]:
        parts, count = [context for context, _ in self.context.parts({})], self.context.half
        weight = self.losses.generator.path_length * self.losses.path_length_every

        def lengths(context: TrainContext) -> Tensor:
            latents = draw_latents(context, Stream.PATHS, step, self.generator, self.cells, batch=count)
            images, _, styles = self._generate(latents)
            direction = normal(context.seeds(Stream.DIRECTION, step, count), *images.shape[1:])
            return path_lengths(images, styles, direction)

        made = lengths(parts[0]) if len(parts) == 1 else None
        # the penalty is against the mean of the whole batch, which has to be known before
        means = [(lengths(context) if made is None else made).detach().mean() for context in parts]
        mean = torch.stack(means).mean()
        self.context.world.average([mean])
        _, path_mean = path_penalty(mean, self.path_mean.value, mean)

        def loss(context: TrainContext) -> Loss:
            found = lengths(context) if made is None else made
            penalty, _ = path_penalty(found, self.path_mean.value, mean)
            return weight * penalty, {"generator/path_penalty": penalty.detach()}

        scalars = self.update("generator", parts, loss)
        self.path_mean.value.copy_(path_mean)  # where the penalty was finite
        return {"generator/path_length": mean} | scalars

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Image batches [N, 3, H, W] to show: real patches; patches of twice the cells by the averaged weights."""
        latents = draw_latents(self.context, Stream.PICTURES, 0, self.average, 2 * self.cells)
        generated, _ = latents.generate(self.average)
        return {"real": batch["window"], "generated": generated}

    def export(self, folder: Path, step: int) -> list[Path]:
        """Write the averaged generator and the discriminator; their paths."""
        paths = [folder / name for name in self.exported]
        export(paths[0], self.model, {"generator": self.average}, step)
        export(paths[1], self.model, {"discriminator": self.discriminator}, step)
        return paths
