"""The inverter stage: patch encoder and global encoder against a trained generator (Patch Inverter, IEEE SPL 2025).

The generator is frozen, as published. With `train.tune_texture` its texture synthesizer learns too, to draw the details
that photographs have and generated structure latents never asked for; the loss `preservation` keeps what it generates.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import losses
from images.thumbnail import area_matrix
from losses.adversarial import discriminator_logistic
from models import build_discriminator, build_encoders, build_generator, patch_pixels
from models.generator import Generator, TextureSynthesizer
from models.geometry import Interval
from models.noise import NoiseField
from models.weights import export, fill, read_weights
from training.context import TrainContext
from training.draws import Latents, Stream, draw_latents
from training.optimization import EMA, build_optimizer, restore, schedule, update
from utils.checkpoint import fingerprint
from utils.errors import UserError

# what losses may need: latents of cells that see generated pixels only; a generated batch; a discriminator
INNER = {"true_structure", "encoded_structure"}
GENERATED = INNER | {"true_global", "encoded_global", "redrawn", "generated"}
JUDGED = {"fake_scores", "fake_features"}


class InverterStage:
    """The generator, the trained networks, the losses, and one training step."""

    def __init__(self, config: dict, context: TrainContext) -> None:
        self.settings, self.context, self.model = config.train, context, config.model
        self.generated_every, self.pretrained = config.losses.generated_every, config.losses.weights
        self.weights = {
            name: weight * (self.generated_every if GENERATED & set(losses.TERMS[name].inputs) else 1)
            for name, weight in config.losses.inverter.items()
        }
        context.check_batch(2, "samples come in pairs")
        self.generator = context.place(build_generator(config.model)).eval().requires_grad_(False)
        self.cells = Interval(0, config.train.patch_cells - 1)
        self.pixels = patch_pixels(self.generator, self.cells.size)

        self.trained = self._build_trained()
        self.context_pixels = self.trained.patch.rule.receptive_field(self.cells)
        self.optimizer = build_optimizer(self.trained.parameters(), config.train.optimizer)
        self.needs = {name for term, weight in self.weights.items() if weight for name in losses.TERMS[term].inputs}
        if self.needs & INNER and self._inner_cells().size < 1:
            raise UserError(
                f"train.patch_cells: {self.cells.size} cells draw {self.pixels.size} px, which is no whole context of"
                " an encoded cell; the loss reciprocal needs more cells"
            )
        if "redrawn" in self.needs and not config.train.tune_texture:
            raise UserError("losses.inverter.preservation: a frozen generator needs none; set train.tune_texture or 0")
        if self.generated_every > 1 and set() < self.needs <= GENERATED:
            raise UserError("losses.generated_every: the steps between would have no loss; set it to 1")
        self.discriminator = self._build_discriminator() if self.needs & JUDGED else None
        self.losses, self.losses_of_photographs, self.average = None, None, None  # until `load_files`

    def load_files(self) -> None:
        """Load the weights that the run starts from, and the losses' networks. UserError for a file that is of no use.

        The average of the weights starts here.
        """
        settings = self.settings
        if settings.generator is None:
            raise UserError("train.generator is not set: the inverter needs a generator run's generator.safetensors")
        weights = read_weights(settings.generator)
        weights.require_generator_of(self.model)
        weights.fill("generator", self.generator)
        if self.trained.texture:
            self.trained.texture.load_state_dict(self.generator.texture.state_dict())
        if settings.encoders is not None:
            fill(settings.encoders, {"encoder": self.trained.patch, "global_encoder": self.trained.whole})
        if self.discriminator and settings.discriminator is not None:
            fill(settings.discriminator, {"discriminator": self.discriminator})
        self.losses = losses.build(self.weights, self.pretrained).to(self.context.device)
        self.losses_of_photographs = self.losses.without(GENERATED)
        self.average = EMA(self.trained, self._build_trained(), settings.ema_images)

    def _build_trained(self) -> _Trained:
        patch, whole = build_encoders(self.model)
        texture = copy.deepcopy(self.generator.texture) if self.settings.tune_texture else None
        return self.context.place(_Trained(patch, whole, texture)).requires_grad_(True)

    def _build_discriminator(self) -> nn.Module:
        self.context.check_batch(self.model.discriminator.minibatch_group, "model.discriminator.minibatch_group")
        discriminator = self.context.place(build_discriminator(self.model, self.pixels.size))
        self.discriminator_optimizer = build_optimizer(discriminator.parameters(), self.settings.optimizer)
        return discriminator

    def _inner_cells(self) -> Interval:
        """The latent cells whose whole context lies inside a generated patch."""
        return self.trained.patch.rule.valid_output(self.pixels)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The trained networks, by name."""
        optional = {"texture": self.trained.texture, "discriminator": self.discriminator}
        networks = {"encoder": self.trained.patch, "global_encoder": self.trained.whole}
        return networks | {name: network for name, network in optional.items() if network is not None}

    @property
    def window(self) -> tuple[int, int, int]:
        """Pixels of a training patch, and of context before and after it."""
        before = self.pixels.first - self.context_pixels.first
        return self.pixels.size, before, self.context_pixels.last - self.pixels.last

    @property
    def conditions(self) -> dict:
        """What a saved state must have been made with."""
        judged = "trained" if self.discriminator else "absent"
        return {
            "train.patch_cells": self.cells.size,
            "train.tune_texture": self.settings.tune_texture,
            "discriminator (losses.inverter: adversarial, feature_matching)": judged,
            "fingerprint of train.generator": fingerprint(self.generator.state_dict()),
        }

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of the encoders on real windows; returns the scalars to log."""
        schedule(self.optimizer, self.settings.optimizer, step)
        seeds = self.context.draws(Stream.RECONSTRUCTION, step).seeds()
        noise = NoiseField(seeds, self.context.device) if self.settings.noise == "field" else None
        generates = bool(self.needs & GENERATED) and step % self.generated_every == 0
        with self.context.autocast():
            tensors = self._reconstruct(self.trained, batch, noise)
            if generates:
                tensors |= self._reciprocate(step)
        scalars = self._judge(step, tensors) if self.discriminator else {}
        world = self.context.world
        prior = self.context.draws(Stream.PRIOR, step).normal(tensors["global_latent"].shape[1])
        # the discrepancy of distributions is that of the whole batch, over all processes
        tensors["global_latent"], tensors["global_prior"] = world.gather(tensors["global_latent"]), world.gather(prior)
        total, parts = (self.losses if generates else self.losses_of_photographs)(**tensors)
        scalars |= {f"inverter/{name}": value for name, value in parts.items()} | {"inverter/total": total.detach()}
        update("inverter", self.trained, self.optimizer, total, scalars, world)
        self.average.update(step, len(batch["window"]) * world.size)
        return scalars

    def _texture(self, trained: _Trained) -> TextureSynthesizer:
        """The texture synthesizer that draws: the tuned one, where there is one."""
        return self.generator.texture if trained.texture is None else trained.texture

    def _reconstruct(self, trained: _Trained, batch: dict, noise: NoiseField | None) -> dict[str, Tensor]:
        """Targets and their reconstructions [B, 3, P, P] and the global latents."""
        inner = self.pixels.slice_in(self.context_pixels)
        z_s, z_g = trained.patch(batch["window"]), trained.whole(batch["thumbnail"])
        texture = self._texture(trained)
        return {
            "target": batch["window"][..., inner, inner],
            "reconstruction": texture(z_s, texture.mapping(z_g), noise),
            "global_latent": z_g,
        }

    def latents(self, step: int) -> Latents:
        """What the generated patches of a step are made from: half a batch, for they cost a generation too."""
        draws = self.context.draws(Stream.RECIPROCAL, step, max(self.context.batch // 4 * 2, 2))
        return draw_latents(draws, self.generator, self.cells.size)

    def _reciprocate(self, step: int) -> dict[str, Tensor]:
        """Generated patches; latents, true and encoded, local ones where a cell's context lies inside the patch."""
        latents = self.latents(step)
        with torch.no_grad():
            generated, z_s = self.generator(latents.z_l, latents.z_g, latents.coordinates, latents.noise)
        texture = self.trained.texture
        redrawn = texture(z_s, texture.mapping(latents.z_g), latents.noise) if texture else generated
        image = redrawn.detach()
        thumbnail = shrink(image, self.model.global_encoder.thumbnail)
        tensors = {
            "generated": generated,
            "redrawn": redrawn,
            "true_global": latents.z_g,
            "encoded_global": self.trained.whole(thumbnail),
        }
        if self.needs & INNER:
            inner = self._inner_cells()
            seen, kept = self.trained.patch.rule.receptive_field(inner).slice_in(self.pixels), inner.slice_in(self.cells)
            tensors["true_structure"] = z_s[..., kept, kept]
            tensors["encoded_structure"] = self.trained.patch(image[..., seen, seen])
        return tensors

    def _judge(self, step: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Train the discriminator on targets against reconstructions; adds what the adversarial terms need."""
        real, fake = tensors["target"], tensors["reconstruction"]
        with self.context.autocast():
            loss = discriminator_logistic(self.discriminator(real)[0], self.discriminator(fake.detach())[0])
        scalars = {"discriminator/logistic": loss.detach()}
        schedule(self.discriminator_optimizer, self.settings.optimizer, step)
        update("discriminator", self.discriminator, self.discriminator_optimizer, loss, scalars, self.context.world)
        self.discriminator.requires_grad_(False)
        with self.context.autocast():
            tensors["fake_scores"], _, tensors["fake_features"] = self.discriminator(fake)
            with torch.no_grad():
                _, _, tensors["real_features"] = self.discriminator(real)
        self.discriminator.requires_grad_(True)
        return scalars

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Image batches [N, 3, P, P] to show: input, reconstruction by the averaged weights, error x 4."""
        tensors = self._reconstruct(self.average.copy, batch, noise=None)
        target, reconstruction = tensors["target"], tensors["reconstruction"]
        error = 4 * (reconstruction - target).abs() - 1  # black is no error
        return {"input": target, "reconstruction": reconstruction, "error": error}

    @torch.no_grad()
    def validate(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """Mean PSNR (dB, values clipped to the 8-bit range) of validation patches, by the averaged weights."""
        values = []
        for batch in batches:
            tensors = self._reconstruct(self.average.copy, batch, noise=None)
            error = (tensors["reconstruction"].clamp(-1, 1) - tensors["target"]).square().mean(dim=(1, 2, 3))
            values += (10 * torch.log10(4 / error.clamp(min=1e-10))).tolist()
        return {"validation/psnr": float(np.mean(values))}

    def export(self, folder: Path, step: int) -> list[Path]:
        """Write the generator and the averaged encoders into one file; its path."""
        path, mean = folder / "inverter.safetensors", self.average.copy
        generator = Generator(self.generator.structure, self._texture(mean))
        networks = {"generator": generator, "encoder": mean.patch, "global_encoder": mean.whole}
        export(path, self.model, networks, step)
        return [path]

    def state_dict(self) -> dict:
        """Everything that a resumed run needs."""
        state = {
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.copy.state_dict(),
        }
        if self.discriminator:
            state["discriminator"] = self.discriminator.state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict`."""
        self.trained.load_state_dict(state["trained"])
        restore(self.optimizer, state["optimizer"])
        self.average.copy.load_state_dict(state["average"])
        if self.discriminator:
            self.discriminator.load_state_dict(state["discriminator"])
            restore(self.discriminator_optimizer, state["discriminator_optimizer"])


class _Trained(nn.Module):
    """The networks that learn, so that one optimizer and one average hold them."""

    def __init__(self, patch: nn.Module, whole: nn.Module, texture: TextureSynthesizer | None) -> None:
        super().__init__()
        self.patch, self.whole, self.texture = patch, whole, texture


def shrink(image: Tensor, size: int) -> Tensor:
    """Thumbnails [B, 3, size, size] of images [B, 3, H, W], by the area resampling that thumbnails of files have."""
    rows, cols = (torch.from_numpy(area_matrix(edge, size)).to(image) for edge in image.shape[-2:])
    return rows @ image @ cols.T
