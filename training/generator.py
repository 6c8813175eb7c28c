"""The generator stage: structure and texture synthesizer against the discriminator (InfinityGAN, ICLR 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
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

Made = tuple[Tensor, Tensor, Tensor]  # patches, structure latents, styles
Part = tuple[dict[str, Tensor], PatchLatents]  # real patches, and what generated ones are made from


class GeneratorStage(Stage):
    """Both networks, their optimizers, and one training step; its pictures are judged by eye, and by evaluate.py."""

    exported = ("generator.safetensors", "discriminator.safetensors")

    def __init__(self, config: dict, context: TrainContext) -> None:
        self.settings, self.losses, self.model, self.context = config.train, config.losses, config.model, context
        self.cells = config.train.patch_cells
        context.check_batch(2, "samples come in pairs")
        context.check_batch(config.model.discriminator.minibatch_group, "model.discriminator.minibatch_group")
        if context.accumulate > 1:
            context.check_batch(4, "train.accumulate: half of each part is taken in pairs")

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
        parts = [
            (real, draw_latents(context, Stream.LATENTS, step, self.generator, self.cells, mixing))
            for context, real in self.context.parts(batch)
        ]
        # the same fakes serve both networks: a third of the generator's work less than drawing them anew
        made = self._generate(parts[0][1]) if len(parts) == 1 else None

        scalars = self._discriminator_step(parts, made)
        if self.losses.generator.r1 and step % self.losses.r1_every == 0:
            scalars |= self._r1_step(parts)
        scalars |= self._generator_step(parts, made)
        if self.losses.generator.path_length and step % self.losses.path_length_every == 0:
            scalars |= self._path_step(step)
        images, half_life = prod(self.context.shares), self.settings.ema_images
        move_average(self.average, self.generator, images, half_life, step if self.average_ramps_up else None)
        return scalars

    def _generate(self, latents: PatchLatents) -> Made:
        """Patches [B, 3, P, P], their structure latents [B, C, h, w] and their styles [B, L + 1, D]."""
        with self.context.autocast():
            styles = latents.styles(self.generator)
            return *latents.generate(self.generator, styles), styles

    def _discriminator_step(self, parts: list[Part], made: Made | None) -> dict[str, Tensor]:
        def losses() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
            for batch, latents in parts:
                with torch.no_grad():
                    fake = (made or self._generate(latents))[0].detach()
                with self.context.autocast():
                    real_scores, real_guess, _ = self.discriminator(batch["window"])
                    fake_scores, fake_guess, _ = self.discriminator(fake)
                loss = discriminator_logistic(real_scores, fake_scores)
                guess = coordinate(real_guess, batch["row"]) + coordinate(fake_guess, latents.row)
                yield loss + self.losses.generator.coordinate * guess, {
                    "discriminator/logistic": loss.detach(),
                    "discriminator/coordinate": guess.detach(),
                    "discriminator/real": real_scores.mean().detach(),
                    "discriminator/fake": fake_scores.mean().detach(),
                }

        return self.optimizers["discriminator"].update(losses())

    def _r1_step(self, parts: list[Part]) -> dict[str, Tensor]:
        weight = self.losses.generator.r1 / 2 * self.losses.r1_every

        def losses() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
            for batch, _ in parts:
                real = batch["window"].detach().requires_grad_(True)
                scores, _, _ = self.discriminator(real)  # float32: the penalty is a small difference of large numbers
                penalty = r1_penalty(scores, real)
                yield weight * penalty, {"discriminator/r1": penalty.detach()}

        return self.optimizers["discriminator"].update(losses())

    def _generator_step(self, parts: list[Part], made: Made | None) -> dict[str, Tensor]:
        weights = self.losses.generator

        def losses() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
            for _, latents in parts:
                fake, z_s, _ = made or self._generate(latents)
                self.discriminator.requires_grad_(False)
                with self.context.autocast():
                    scores, guess, _ = self.discriminator(fake)
                self.discriminator.requires_grad_(True)
                terms = {
                    "adversarial": generator_logistic(scores),
                    "coordinate": coordinate(guess, latents.row),
                    "diversity": diversity(latents.z_l, z_s),
                }
                loss = sum(weights[name] * value for name, value in terms.items())
                yield loss, {f"generator/{name}": value.detach() for name, value in terms.items()}

        return self.optimizers["generator"].update(losses())

    def _path_step(self, step: int) -> dict[str, Tensor]:
        count = max(self.context.batch // 4 * 2, 2)  # half a batch, in pairs
        parts = [context for context, _ in self.context.parts({})]
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

        def losses() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
            for context in parts:
                found = lengths(context) if made is None else made
                penalty, _ = path_penalty(found, self.path_mean.value, mean)
                yield weight * penalty, {"generator/path_penalty": penalty.detach()}

        scalars = self.optimizers["generator"].update(losses())
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
