"""The generator: structure and texture synthesizer, one after the other (InfinityGAN, Lin et al., ICLR 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from models.noise import Noise
from models.structure import StructureSynthesizer
from models.texture import TextureSynthesizer


class Generator(nn.Module):
    """Latents -> image. Letters: B batch, C channels, D style, L layers of noise, h/w latent cells, H/W pixels."""

    def __init__(self, structure: StructureSynthesizer, texture: TextureSynthesizer) -> None:
        super().__init__()
        self.structure = structure
        self.texture = texture

    def forward(
        self,
        z_l: Tensor,  # [B, C, h, w]
        z_g: Tensor,  # [B, D]
        coordinates: Tensor,  # [B or 1, 3, h, w]
        noise: Noise | None,
        w: Tensor | None = None,  # style [B, D] or [B, L + 1, D] in place of the one that z_g maps to
    ) -> tuple[Tensor, Tensor]:
        """Image [B, 3, H, W] and structure latent [B, C, h', w']."""
        z_s = self.structure(z_l, z_g, coordinates)
        return self.texture(z_s, self.texture.mapping(z_g) if w is None else w, noise), z_s
