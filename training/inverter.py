"""The inverter stage: patch encoder and global encoder against a trained generator (Patch Inverter, IEEE SPL 2025).

The generator is frozen, as published. With `train.tune_texture` its texture synthesizer learns too, to draw the details
that photographs have and generated structure latents never asked for; the loss `preservation` keeps what it generates.

Letters: B batch, C channels, D length of the global latent, P pixels of a patch, h/w latent cells.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import losses
from datasets import CropDataset, Window
from images.thumbnail import area_matrix
from losses.adversarial import discriminator_logistic
from models import build_discriminator, build_encoders, build_generator, patch_pixels
from models.generator import Generator
from models.geometry import Interval
from models.noise import NoiseField
from models.statistics import measure
from models.texture import TextureSynthesizer
from models.weights import export, fill, read_weights
from training.context import Stream, TrainContext
from training.latents import PatchLatents, draw_latents, normal
from training.optimization import NetworkOptimizer, averaged
from training.stage import Loss, Stage
from training.trunk import fit_styles, fit_trunk
from utils.checkpoint import fingerprint
from utils.errors import UserError

ENCODERS = ("encoder", "global_encoder")
# what losses may need: latents of cells that see generated pixels only; a generated batch; a discriminator
INNER = {"true_structure", "encoded_structure"}
GENERATED = INNER | {"true_global", "encoded_global", "redrawn", "generated"}
JUDGED = {"fake_scores", "fake_features"}
NO_TRUNK = GENERATED | {"global_latent"}  # with a trunk, what is generated is learned later, and styles are measured

Part = tuple[TrainContext, dict[str, Tensor]]  # of a batch


class InverterStage(Stage):
    """The generator, the networks that learn, the losses, and one training step."""

    exported = ("inverter.safetensors",)

    def __init__(self, config: dict, context: TrainContext) -> None:
        super().__init__(config, context)
        self.generated_every, self.pretrained = config.losses.generated_every, config.losses.weights
        context.check_pairs()
        self.generator = context.place(build_generator(config.model)).eval().requires_grad_(False)
        encoders = zip(ENCODERS, build_encoders(config.model), strict=True)
        self.trained = nn.ModuleDict({name: network for name, network in encoders if network is not None})
        if config.train.tune_texture:
            self.trained["texture"] = copy.deepcopy(self.generator.texture)
        context.place(self.trained).requires_grad_(True)
        self.networks = dict(self.trained)

        rule = self.trained["encoder"].rule
        self.cells = Interval(0, config.train.patch_cells - 1)
        self.pixels = patch_pixels(self.generator, self.cells.size)  # that the cells draw
        self.inner_cells = rule.valid_output(self.pixels)  # those that are encoded from these pixels alone
        self.read = rule.receptive_field(self.cells)  # pixels that all cells are encoded from
        self.window = Window(self.pixels.size, self.pixels.first - self.read.first, self.read.last - self.pixels.last)

        self.weights = {
            name: weight * (self.generated_every if GENERATED & set(losses.TERMS[name].inputs) else 1)
            for name, weight in config.losses.inverter.items()
        }
        self.needs = {name for term, weight in self.weights.items() if weight for name in losses.TERMS[term].inputs}
        self._check_losses()
        optimizer = NetworkOptimizer("inverter", self.trained, config.train.optimizer, context.world)
        self.optimizers["inverter"] = optimizer
        self.discriminator = None
        if self.needs & JUDGED:
            context.check_batch(self.model.discriminator.minibatch_group, "model.discriminator.minibatch_group")
            discriminator = build_discriminator(self.model, self.pixels.size)
            self.discriminator = self.add_network("discriminator", discriminator)

    def _check_losses(self) -> None:
        if self.needs & INNER and self.inner_cells.size < 1:
            raise UserError(
                f"train.patch_cells: {self.cells.size} cells draw {self.pixels.size} px, which is no whole context of"
                " an encoded cell; the loss reciprocal needs more cells"
            )
        if self.model.trunk and self.needs & NO_TRUNK:
            used = (name for name, weight in self.weights.items() if weight)
            name = next(name for name in used if NO_TRUNK & set(losses.TERMS[name].inputs))
            raise UserError(f"losses.inverter.{name}: with model.trunk it has no meaning; set it to 0")
        if self.model.trunk and not self.settings.tune_texture:
            raise UserError("train.tune_texture: false, but with model.trunk the texture synthesizer is what learns")
        if "redrawn" in self.needs and not self.settings.tune_texture:
            raise UserError("losses.inverter.preservation: a frozen generator needs none; set train.tune_texture or 0")
        if self.generated_every > 1 and set() < self.needs <= GENERATED:
            raise UserError("losses.generated_every: the steps between would have no loss; set it to 1")

    def load_files(self) -> None:
        """Load the weights that the run starts from, and the losses' networks. UserError for a file that is of no use.

        The average of the weights starts here.
        """
        settings, trained = self.settings, self.trained
        if settings.generator is not None:
            weights = read_weights(settings.generator)
            weights.require_generator_of(self.model)
            weights.fill("generator", self.generator)
            if self.model.trunk:
                trained["encoder"].trunk.load_state_dict(self.generator.texture.trunk.state_dict())
        elif not self.model.trunk:
            raise UserError("train.generator is not set: the inverter needs a generator run's generator.safetensors")
        if settings.tune_texture:
            trained["texture"].load_state_dict(self.generator.texture.state_dict())
        if settings.encoders is not None:
            fill(settings.encoders, {name: trained[name] for name in ENCODERS if name in trained})
        if self.discriminator and settings.discriminator is not None:
            fill(settings.discriminator, {"discriminator": self.discriminator})
        self.losses = losses.build(self.weights, self.pretrained, self.context.device)
        self.losses_of_photographs = self.losses.without(GENERATED)
        self.average = averaged(trained)
        self.state |= {"trained": trained, "optimizer": self.optimizers["inverter"], "average": self.average}
        self.conditions = {
            "train.patch_cells": self.cells.size,
            "train.tune_texture": settings.tune_texture,
            "discriminator (losses.inverter: adversarial, feature_matching)": (
                "trained" if self.discriminator else "absent"
            ),
            "fingerprint of train.generator": settings.generator and fingerprint(self.generator.state_dict()),
        }

    def prepare(self, images: CropDataset) -> None:
        """Fit a new trunk to the training images, and what standardises styles and draws them from seeds."""
        if not self.model.trunk or self.settings.generator is not None:
            return
        trunk, textures = self.trained["encoder"].trunk, [self.generator.texture, self.trained["texture"]]
        fit_trunk(trunk, images)
        for texture in textures:
            texture.trunk.load_state_dict(trunk.state_dict())
        fit_styles(trunk, [*textures, self.generator.structure], images)
        self.average.load_state_dict(self.trained.state_dict())

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of the encoders on real windows."""
        self.schedule(step)
        generates = bool(self.needs & GENERATED) and step % self.generated_every == 0
        parts = self.context.parts(batch)
        made = self._tensors(step, *parts[0], generates) if len(parts) == 1 else None  # which serves both networks

        def tensors(part: Part, needed: bool = generates) -> dict[str, Tensor]:
            return dict(made or self._tensors(step, *part, needed))

        scalars = {}
        if self.discriminator:
            scalars = self.update("discriminator", parts, partial(self._discriminator_loss, tensors))
        scalars |= self.optimizers["inverter"].update(self._inverter_losses(step, parts, tensors, generates))
        self.follow(self.trained, step)
        return scalars

    def _tensors(self, step: int, context: TrainContext, batch: dict, generates: bool) -> dict[str, Tensor]:
        """What the losses take of a part of a batch, but for scores and the distribution of the whole batch."""
        noise = None
        if self.settings.noise == "field":
            noise = NoiseField(context.seeds(Stream.RECONSTRUCTION, step), context.device)
        with context.autocast():
            tensors = self.reconstruct(self.trained, batch, noise)
            return tensors | (self.encode_generated(step, context) if generates else {})

    def _inverter_losses(
        self, step: int, parts: list[Part], tensors: Callable[[Part], dict[str, Tensor]], generates: bool
    ) -> Iterator[Loss]:
        chosen, held = self.losses if generates else self.losses_of_photographs, []
        if not self.model.trunk:
            prior = torch.cat([normal(each.seeds(Stream.PRIOR, step), self.model.global_dim) for each, _ in parts])
            prior = self.context.world.gather(prior)
        if not self.model.trunk and len(parts) > 1:
            with torch.no_grad(), self.context.autocast():
                held = [self.trained["global_encoder"](each["thumbnail"]) for _, each in parts]
        for part in parts:
            found = tensors(part)
            if self.discriminator:
                found |= self._judge(found["target"], found["reconstruction"])
            if "global_latent" in found:
                whole = self._whole_batch(found["global_latent"], held, part[0])
                found |= {"global_prior": prior, "global_latent": whole}
            total, terms = chosen(**found)
            yield total, {f"inverter/{name}": each for name, each in terms.items()} | {"inverter/total": total.detach()}

    def _whole_batch(self, own: Tensor, held: list[Tensor], part: TrainContext) -> Tensor:
        """The global latents [N, D] of the whole batch, over all parts and processes, of which a part's `own` learn.

        The loss of their distribution is one for all of them: for the mean over these its gradient counts as often.
        """
        world, fixed, count = part.world, own.detach(), part.accumulate * part.world.size
        whole = world.gather(torch.cat(held or [fixed]))
        first = (world.rank * part.accumulate + part.part) * len(own)
        whole[first : first + len(own)] = fixed + count * (own - fixed)
        return whole

    def reconstruct(self, networks: nn.ModuleDict, batch: dict, noise: NoiseField | None) -> dict[str, Tensor]:
        """Targets and their reconstructions [B, 3, P, P], and the global latents [B, D] where they are encoded."""
        patch = self.pixels.slice_in(self.read)
        z_s = networks["encoder"](batch["window"])  # [B, C, h, w]
        texture, tensors = self._texture(networks), {"target": batch["window"][..., patch, patch]}
        if self.model.trunk:
            z_g = measure(z_s.detach().flatten(2)).float()  # [B, S]
        else:
            z_g = tensors["global_latent"] = networks["global_encoder"](batch["thumbnail"])
        return tensors | {"reconstruction": texture(z_s, texture.mapping(z_g), noise)}

    def encode_generated(self, step: int, context: TrainContext) -> dict[str, Tensor]:
        """Generated patches [B, 3, P, P], the same redrawn by a tuned texture synthesizer, and what is encoded of them.

        Their latents, true and encoded: global ones [B, D], and structure of the cells whose context lies inside the
        patch, where a loss asks for it.
        """
        latents = self.latents(step, context)
        with torch.no_grad():
            generated, z_s = latents.generate(self.generator)
        redrawn, texture = generated, self._texture(self.trained)
        if self.settings.tune_texture:
            redrawn = texture(z_s, texture.mapping(latents.z_g), latents.noise)
        image = redrawn.detach()
        thumbnail = shrink(image, self.model.global_encoder.thumbnail)
        tensors = {
            "generated": generated,
            "redrawn": redrawn,
            "true_global": latents.z_g,
            "encoded_global": self.trained["global_encoder"](thumbnail),
        }
        if self.needs & INNER:
            encoder, cells = self.trained["encoder"], self.inner_cells.slice_in(self.cells)
            pixels = encoder.rule.receptive_field(self.inner_cells).slice_in(self.pixels)
            tensors["true_structure"] = z_s[..., cells, cells]
            tensors["encoded_structure"] = encoder(image[..., pixels, pixels])
        return tensors

    def _texture(self, networks: nn.ModuleDict) -> TextureSynthesizer:
        """The texture synthesizer that draws: a tuned one, or the generator's."""
        return networks["texture"] if self.settings.tune_texture else self.generator.texture

    def latents(self, step: int, context: TrainContext) -> PatchLatents:
        """What the generated patches of a step are made from: half a batch, for they cost a generation too."""
        return draw_latents(context, Stream.RECIPROCAL, step, self.generator, self.cells.size, batch=context.half)

    def _discriminator_loss(self, tensors: Callable[..., dict[str, Tensor]], part: Part) -> Loss:
        """Targets against reconstructions."""
        with torch.no_grad():
            found = tensors(part, needed=False)
        with self.context.autocast():
            real, fake = (self.discriminator(found[name].detach())[0] for name in ("target", "reconstruction"))
            loss = discriminator_logistic(real, fake)
        return loss, {"discriminator/logistic": loss.detach()}

    def _judge(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """What the adversarial losses need of the discriminator."""
        self.discriminator.requires_grad_(False)
        with self.context.autocast():
            fake_scores, _, fake_features = self.discriminator(fake)
            with torch.no_grad():
                _, _, real_features = self.discriminator(real)
        self.discriminator.requires_grad_(True)
        return {"fake_scores": fake_scores, "fake_features": fake_features, "real_features": real_features}

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Image batches [N, 3, P, P] to show: input, reconstruction by the averaged weights, error x 4."""
        tensors = self.reconstruct(self.average, batch, noise=None)
        target, reconstruction = tensors["target"], tensors["reconstruction"]
        error = 4 * (reconstruction - target).abs() - 1  # black is no error
        return {"input": target, "reconstruction": reconstruction, "error": error}

    @torch.no_grad()
    def validate(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """Mean PSNR (dB, values clipped to the 8-bit range) of validation patches, by the averaged weights."""
        values = []
        for batch in batches:
            tensors = self.reconstruct(self.average, batch, noise=None)
            error = (tensors["reconstruction"].clamp(-1, 1) - tensors["target"]).square().mean(dim=(1, 2, 3))
            values += (10 * torch.log10(4 / error.clamp(min=1e-10))).tolist()
        return {"validation/psnr": float(np.mean(values))}

    def export(self, folder: Path, step: int) -> list[Path]:
        """Write the generator and the averaged encoders into one file; its path."""
        path, mean = folder / self.exported[0], self.average
        generator = Generator(self.generator.structure, self._texture(mean))
        encoders = {name: mean[name] for name in ENCODERS if name in mean}
        export(path, self.model, {"generator": generator} | encoders, step)
        return [path]


def shrink(image: Tensor, size: int) -> Tensor:
    """Thumbnails [B, 3, size, size] of images [B, 3, H, W], by the area resampling that thumbnails of files have."""
    rows, cols = (torch.from_numpy(area_matrix(edge, size)).to(image) for edge in image.shape[-2:])
    return rows @ image @ cols.T
