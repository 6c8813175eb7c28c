"""The generator stage: structure and texture synthesizer against the discriminator (InfinityGAN, ICLR 2022)."""

from __future__ import annotations

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
from training.optimization import NetworkOptimizer, averaged, move_average
from training.stage import Stage


class GeneratorStage(Stage):
    """Both networks, their optimizers, and one training step; its pictures are judged by eye, and by evaluate.py."""

    exported = ("generator.safetensors", "discriminator.safetensors")

    def __init__(self, config: dict, context: TrainContext) -> None:
        self.settings, self.losses, self.model, self.context = config.train, config.losses, config.model, context
        self.cells = config.train.patch_cells
        context.check_batch(2, "samples come in pairs")
        context.check_batch(config.model.discriminator.minibatch_group, "model.discriminator.minibatch_group")

        self.generator = context.place(build_generator(config.model))
        self.window = Window(patch_pixels(self.generator, self.cells).size, before=0, after=0)
        self.discriminator = context.place(build_discriminator(config.model, self.window.patch))
        self.average, self.average_ramps_up = averaged(self.generator), True
        self.path_mean = nn.Module()
        self.path_mean.register_buffer("value", torch.zeros((), device=context.device))

        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        lazy = {"generator": self.losses.path_length_every, "discriminator": self.losses.r1_every}
        self.optimizers = {
            name: NetworkOptimizer(name, network, config.train.optimizer, context.world, lazy[name])
            for name, network in self.networks.items()
        }

        self.conditions = {"train.patch_cells": self.cells}
        self.state = self.networks | {"average": self.average, "path_mean": self.path_mean}
        self.state |= {f"{name}_optimizer": optimizer for name, optimizer in self.optimizers.items()}

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
        for optimizer in self.optimizers.values():
            optimizer.schedule(step)
        mixing = self.settings.style_mixing
        latents = draw_latents(self.context, Stream.LATENTS, step, self.generator, self.cells, mixing)
        fake, z_s, _ = self._generate(latents)

        scalars = self._discriminator_step(batch, fake.detach(), latents.row)
        if self.losses.generator.r1 and step % self.losses.r1_every == 0:
            scalars |= self._r1_step(batch["window"])
        # the same fakes serve both networks: a third of the generator's work less than drawing them anew
        scalars |= self._generator_step(fake, latents, z_s)
        if self.losses.generator.path_length and step % self.losses.path_length_every == 0:
            scalars |= self._path_step(step)
        images, half_life = len(fake) * self.context.world.size, self.settings.ema_images
        move_average(self.average, self.generator, images, half_life, step if self.average_ramps_up else None)
        return scalars

    def _generate(self, latents: PatchLatents) -> tuple[Tensor, Tensor, Tensor]:
        """Patches [B, 3, P, P], their structure latents [B, C, h, w] and their styles [B, L + 1, D]."""
        with self.context.autocast():
            styles = latents.styles(self.generator)
            return *latents.generate(self.generator, styles), styles

    def _discriminator_step(self, batch: dict, fake: Tensor, row: Tensor) -> dict[str, Tensor]:
        with self.context.autocast():
            real_scores, real_guess, _ = self.discriminator(batch["window"])
            fake_scores, fake_guess, _ = self.discriminator(fake)
        loss = discriminator_logistic(real_scores, fake_scores)
        guess = coordinate(real_guess, batch["row"]) + coordinate(fake_guess, row)
        scalars = {
            "discriminator/logistic": loss.detach(),
            "discriminator/coordinate": guess.detach(),
            "discriminator/real": real_scores.mean().detach(),
            "discriminator/fake": fake_scores.mean().detach(),
        }
        self.optimizers["discriminator"].update(loss + self.losses.generator.coordinate * guess, scalars)
        return scalars

    def _r1_step(self, real: Tensor) -> dict[str, Tensor]:
        real = real.detach().requires_grad_(True)
        scores, _, _ = self.discriminator(real)  # float32: the penalty is a small difference of large numbers
        penalty = r1_penalty(scores, real)
        scalars = {"discriminator/r1": penalty.detach()}
        self.optimizers["discriminator"].update(self.losses.generator.r1 / 2 * self.losses.r1_every * penalty, scalars)
        return scalars

    def _generator_step(self, fake: Tensor, latents: PatchLatents, z_s: Tensor) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        with self.context.autocast():
            scores, guess, _ = self.discriminator(fake)
        self.discriminator.requires_grad_(True)
        parts = {
            "adversarial": generator_logistic(scores),
            "coordinate": coordinate(guess, latents.row),
            "diversity": diversity(latents.z_l, z_s),
        }
        scalars = {f"generator/{name}": value.detach() for name, value in parts.items()}
        weights = self.losses.generator
        self.optimizers["generator"].update(sum(weights[name] * value for name, value in parts.items()), scalars)
        return scalars

    def _path_step(self, step: int) -> dict[str, Tensor]:
        count = max(self.context.batch // 4 * 2, 2)  # half a batch, in pairs
        latents = draw_latents(self.context, Stream.PATHS, step, self.generator, self.cells, batch=count)
        images, _, styles = self._generate(latents)
        direction = normal(self.context.seeds(Stream.DIRECTION, step, count), *images.shape[1:])
        lengths = path_lengths(images, styles, direction)
        mean = lengths.detach().mean()
        self.context.world.average([mean])
        penalty, path_mean = path_penalty(lengths, self.path_mean.value, mean)
        scalars = {"generator/path_length": mean, "generator/path_penalty": penalty.detach()}
        weight = self.losses.generator.path_length * self.losses.path_length_every
        self.optimizers["generator"].update(weight * penalty, scalars)
        self.path_mean.value.copy_(path_mean)  # where the penalty was finite
        return scalars

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
