"""The style of an image as statistics of its structure latents, for models with a trunk.

Styles by the statistics of features are those of Huang and Belongie (AdaIN, ICCV 2017); here they are of the latents
themselves. The vector [S] of a style holds, of all K channels of an image's cells,

    mean [K], deviation [K], and of the three colour channels: covariance [6], quantiles [3 x 8] after whitening.

Letters: N styles, K channels, S length of a style, D style w.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import EqualizedLinear
from models.trunk import COLOURS, FLOOR, Trunk

QUANTILES = 8  # of each colour channel
SLOPES = 0.4, 2.5  # of the map of quantiles
LOW = 1  # row and column of the lowest frequencies
BRIGHTEST = 0.6  # mean brightness of what is drawn in a style, of what white has
BRIGHT, DARK = 1.6, 1.1  # deviations from the mean colour that `within_gamut` keeps from white, from black
LEAST = 0.35  # of the deviations, that it keeps
WIDEST = 1.5  # times the colours' own deviation: faint ones, and what compression left of them, would become stains
RIDGE = 0.05  # of the trace of the colours' covariance
GAINS = 1 / 1.5, 1.5  # of textures, in another style
EVEN = 1e-4  # gains nearer to 1 are rounding
COVARIANCE = COLOURS * (COLOURS + 1) // 2


def style_length(channels: int) -> int:
    """S for K channels."""
    return 2 * channels + COVARIANCE + COLOURS * QUANTILES


class StatisticsMapping(nn.Module):
    """Style vector [N, S] -> style w [N, D]: means and log deviations, standardised, then fully connected layers."""

    def __init__(self, channels: int, dim: int, layers: int, lr_multiplier: float) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("centre", torch.zeros(2 * channels))
        self.register_buffer("spread", torch.ones(2 * channels))
        inputs = [2 * channels, *[dim] * (layers - 1)]
        self.layers = nn.Sequential(
            *(EqualizedLinear(size, dim, lr_multiplier=lr_multiplier, activation=True) for size in inputs)
        )

    def fit(self, styles: Tensor) -> None:
        """Set what standardises by the styles [N, S] of training images."""
        features = self._features(styles)
        self.centre.copy_(features.mean(0))
        self.spread.copy_(features.std(0, correction=0).clamp(min=1e-3))

    def forward(self, style: Tensor) -> Tensor:
        return self.layers((self._features(style) - self.centre) / self.spread)

    def _features(self, style: Tensor) -> Tensor:
        mean, deviation = style[:, : 2 * self.channels].split(self.channels, 1)
        return torch.cat([mean, deviation.clamp(min=FLOOR).log()], 1)


def measure(z: Tensor) -> Tensor:
    """The style vectors [N, S], float64 (float32 on Apple's GPU, which has no other), of latents [N, K, cells].

    What whitens the colours is the inverse root of their covariance; the quantiles are those of the shares
    (1/2, 3/2 ...) / 8.
    """
    z = z.float() if z.device.type == "mps" else z.double()
    return assemble(z.mean(2), z.var(2, correction=0), z[:, :COLOURS])


def assemble(mean: Tensor, variance: Tensor, colours: Tensor) -> Tensor:
    """The style vectors [N, S] of means and variances [N, K], and of the colours [N, 3, cells] of some cells."""
    centred = colours - colours.mean(2, keepdim=True)
    covariance = centred @ centred.transpose(1, 2) / colours.shape[2]
    whitened = matrix_power(covariance, -0.5) @ centred
    shares = (torch.arange(QUANTILES, dtype=colours.dtype, device=colours.device) + 0.5) / QUANTILES
    quantiles = torch.quantile(whitened, shares, dim=2).permute(1, 2, 0)  # [N, 3, 8]
    return _joined(mean, variance.clamp(min=0).sqrt(), covariance, quantiles)


def matrix_power(covariance: Tensor, power: float) -> Tensor:
    """Of symmetric matrices [N, 3, 3], whose small eigenvalues are raised to a share of the trace.

    Those of a style beyond another one may be negative.
    """
    floor = RIDGE * covariance.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True).clamp(min=0) + FLOOR**2
    return _of_eigenvalues(covariance, lambda values: values.clamp(min=floor).pow(power))


def to_features(styles: Tensor, channels: int) -> Tensor:
    """Numbers [N, 2K + 6], float64, of style vectors [N, S], in which styles are moved along straight lines.

    Means, and logarithms: of deviations, and of the colours' covariance as a matrix (log-Euclidean: Arsigny et al.,
    SIAM J. Matrix Anal. Appl. 2007), so that whatever they become is positive.
    """
    mean, deviation, covariance, _ = _parts(styles.double(), channels)
    covariance = _of_eigenvalues(covariance, lambda values: values.clamp(min=FLOOR**2).log())
    return _joined(mean, deviation.clamp(min=FLOOR).log(), covariance)


def from_features(features: Tensor, styles: Tensor, channels: int) -> Tensor:
    """The style vectors [N, S], float64, of any features, with the quantiles of other styles [N, S].

    So the map from these to them is linear: one that bends where quantiles lie leaves stains beside clouds and ridges.
    """
    mean, deviation, covariance = _parts(features.double(), channels)[:3]
    quantiles = _parts(styles.double(), channels)[3]
    return _joined(mean, deviation.exp(), _of_eigenvalues(covariance, torch.exp), quantiles)


def within_gamut(style: Tensor, own: Tensor, trunk: Trunk) -> Tensor:
    """A style [S], float64, near the given one, whose colours do not leave what pictures show further than `own` does.

    Of each of red, green and blue, the mean and BRIGHT (upwards) or DARK (downwards) deviations lie in [-1, 1]: first
    the mean gives way, until LEAST of the deviations has room, then these. Along no axis are they wider than WIDEST
    times those of `own`.
    """
    to_rgb = (trunk.axes.T * trunk.scale[:COLOURS] / trunk.cell).cpu().double()
    parts, (own_mean, _, own_covariance, _) = (_parts(each[None].double(), trunk.channels) for each in (style, own))
    mean, deviation, covariance, quantiles = parts
    before, covariance = covariance, _limited(covariance, own_covariance, WIDEST**2)
    (centre, reach), (own_centre, own_reach) = (
        (to_rgb @ m[0, :COLOURS], (to_rgb @ c[0] @ to_rgb.T).diagonal().clamp(min=FLOOR**2).sqrt())
        for m, c in ((mean, covariance), (own_mean, own_covariance))
    )
    top, bottom = (own_centre + BRIGHT * own_reach).clamp(min=1), (own_centre - DARK * own_reach).clamp(max=-1)
    least = LEAST * torch.minimum(reach, (top - bottom) / (BRIGHT + DARK))
    centre = torch.minimum(torch.maximum(centre, bottom + DARK * least), top - BRIGHT * least)
    room = torch.minimum((top - centre) / BRIGHT, (centre - bottom) / DARK) / reach
    narrower = torch.linalg.solve(to_rgb, room.clamp(max=1)[:, None] * to_rgb)
    mean = torch.cat([torch.linalg.solve(to_rgb, centre)[None], mean[:, COLOURS:]], 1)
    covariance = narrower @ covariance @ narrower.T
    change = (covariance / before)[0].diagonal().sqrt()[trunk.order[: trunk.channels].cpu() // trunk.cell**2]
    return _joined(mean, deviation * change, covariance, quantiles)[0]


def bands(trunk: Trunk) -> Tensor:
    """Of each coefficient of a trunk, its band [3 m^2]: 0 is the colours and what follows them, then coarse to fine."""
    frequency = trunk.order.cpu() % trunk.cell**2
    return (torch.maximum(frequency // trunk.cell, frequency % trunk.cell) - LOW).clamp(min=0)


def take_bands(own: Tensor, other: Tensor, trunk: Trunk, first: int, last: int) -> Tensor:
    """The style [S] of an image in its own one [S] that takes only these bands (`bands`) from another one."""
    channels, band = trunk.channels, bands(trunk)[: trunk.channels]
    taken = (band >= first) & (band <= last)
    if bool(taken.all()):
        return other
    part = slice(channels, 2 * channels)
    style, kept = own.clone(), own[part]
    if first == 0 and not torch.equal(own, other):
        style = other.clone()
        kept = StyleTransfer(own, other, trunk, channels).carry(kept.double()).to(style)
    style[part] = torch.where(taken, other[part], kept)
    return style


class StyleTransfer:
    """The map of latents in one style to another, cell by cell.

    Of the colours C_B^(1/2) q(C_A^(-1/2) (z - m_A)) + m_B, where q takes the quantiles of A to those of B, piecewise
    linear, with slopes from 0.4 to 2.5: so nearly the optimal transport of their distributions, which it is for each
    axis. Of the other channels, the lowest frequencies follow by its derivative in their cell, or smooth slopes would
    become stairs; the others by that of slopes 1, which keeps textures alike everywhere. Each band of these is then
    scaled by the ratio of B's deviations to those that it has so far, between 2/3 and 3/2, and the less so the less
    texture a cell has: noise in a sky is none.
    """

    def __init__(self, own: Tensor, other: Tensor, trunk: Trunk, channels: int) -> None:
        """Styles [S] of a trunk's model; `channels`: the coefficients that latents have."""
        order, scale = trunk.order[:channels].cpu(), trunk.scale[:channels].cpu().double()
        (mean, covariance, quantiles), (mean_b, covariance_b, quantiles_b) = (
            _colours(style.double(), trunk.channels) for style in (own, other)
        )
        self.mean, self.mean_b = mean[:, None], mean_b[:, None].clone()
        most = BRIGHTEST * trunk.cell * float(trunk.axes[0].abs().sum()) / scale[0]  # styles may lie beyond any image's
        self.mean_b[0].clamp_(-most, most)
        self.whiten, self.colour = matrix_power(covariance[None], -0.5)[0], matrix_power(covariance_b[None], 0.5)[0]
        steps = quantiles.diff(dim=1).clamp(min=FLOOR)
        self.slopes = (quantiles_b.diff(dim=1) / steps).clamp(*SLOPES)  # [3, 7]
        self.knots = quantiles[:, :1] + F.pad(steps.cumsum(1), (1, 0))
        values = F.pad((self.slopes * steps).cumsum(1), (1, 0))
        # the mean of the piecewise linear map over the quantiles is that of B's
        self.values = values + (quantiles_b.mean(1, keepdim=True) - values.mean(1, keepdim=True))

        # coefficient k of axis a gets weight[k, b] J[a, b] of that at beside[k, b], of the same frequency and axis b
        self.axis, frequency, count = order // trunk.cell**2, order % trunk.cell**2, torch.arange(channels)
        same = (frequency[:, None] == frequency)[:, None] & (self.axis == torch.arange(COLOURS)[:, None])  # [C, 3, C]
        self.beside = same.int().argmax(2)
        self.weight = same.any(2) * scale[self.beside] / scale[:, None]
        self.weight *= (scale[:COLOURS, None] / scale[:COLOURS])[self.axis]  # J is of the first three channels
        self.even = (self.colour @ self.whiten)[self.axis] * self.weight  # with slopes of 1
        band = bands(trunk)[:channels]
        self.low = torch.nonzero((band == 0) & (count >= COLOURS))[:, 0]
        across = (self.even != 0) & (band > 0)[:, None] & (self.beside != count[:, None])
        self.across = [torch.nonzero(column)[:, 0] for column in across.T]

        known = min(channels, trunk.channels)
        deviation, deviation_b = (each.double()[trunk.channels :][:known].clamp(min=FLOOR) for each in (own, other))
        self.gain, ratio = torch.ones(channels), (deviation_b / self.carry(deviation).clamp(min=FLOOR)).log()
        for each in range(1, int(band[:known].max()) + 1):
            if bool((band[:known] == each).any()):
                self.gain[band == each] = ratio[band[:known] == each].mean().exp().clamp(*GAINS).float()
        self.deviation = deviation.tolist()

    def carry(self, deviation: Tensor) -> Tensor:
        """Deviations [C'] of the first channels, as the colours' map alone leaves them; as if axes were independent."""
        every = F.pad(deviation, (0, len(self.axis) - len(deviation)))
        return (self.even * every[self.beside]).square().sum(1).sqrt()[: len(deviation)]

    def __call__(self, z: Tensor) -> Tensor:
        """Latents [C, h, w], float32 -> the same in the other style."""
        flat = z.flatten(1)
        white = _times(self.whiten, flat[:COLOURS].double() - self.mean)
        place = torch.searchsorted(self.knots, white, right=True).sub_(1).clamp_(0, QUANTILES - 2)
        knots, values, slopes = (each.gather(1, place) for each in (self.knots, self.values, self.slopes))
        result = flat * self.even[torch.arange(len(flat)), self.axis, None].float()
        for axis, rows in enumerate(self.across):
            result[rows] += flat[self.beside[rows, axis]] * self.even[rows, axis, None].float()
        if bool(((self.gain - 1).abs() > EVEN).any()):
            result *= 1 + (self.gain[:, None] - 1) * self._active(flat)
        result[:COLOURS] = (_times(self.colour, values + (white - knots) * slopes) + self.mean_b).float()
        steep = torch.stack([_times(self.colour, slopes * column[:, None]) for column in self.whiten.T], 1)
        for k in self.low:
            parts = (steep[self.axis[k], b] * self.weight[k, b] * flat[self.beside[k, b]] for b in range(COLOURS))
            result[k] = sum(parts).float()
        return result.reshape(z.shape)

    def _active(self, flat: Tensor) -> Tensor:
        """How much texture cells [C, n] have, from 0 to 1: [n]; 1/2 is the mean of their image."""
        square = torch.zeros_like(flat[0])
        for k in range(COLOURS, len(self.deviation)):  # in one order for every n
            square += (flat[k] * (1 / self.deviation[k])).square_()
        square /= max(len(self.deviation) - COLOURS, 1)
        return square / (1 + square)


def _times(matrix: Tensor, values: Tensor) -> Tensor:
    """[3, 3] by [3, n], in one order for every n."""
    return torch.stack([sum(matrix[i, j] * values[j] for j in range(COLOURS)) for i in range(COLOURS)])


def _colours(style: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [3], covariance [3, 3] and quantiles [3, 8] of the colours of a style [S]."""
    mean, _, covariance, quantiles = _parts(style[None], channels)
    return mean[0, :COLOURS], covariance[0], quantiles[0]


def _parts(styles: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means and deviations [N, K], covariances [N, 3, 3] and quantiles [N, 3, 8] (features have none) of styles."""
    mean, deviation, upper, quantiles = styles.tensor_split([channels, 2 * channels, 2 * channels + COVARIANCE], 1)
    covariance = styles.new_zeros(len(styles), COLOURS, COLOURS)
    rows, cols = torch.triu_indices(COLOURS, COLOURS)
    covariance[:, rows, cols] = covariance[:, cols, rows] = upper
    return mean, deviation, covariance, quantiles.unflatten(1, (COLOURS, -1)) if quantiles.shape[1] else quantiles


def _joined(mean: Tensor, deviation: Tensor, covariance: Tensor, quantiles: Tensor | None = None) -> Tensor:
    """The styles [N, S], or features, of their parts."""
    rows, cols = torch.triu_indices(COLOURS, COLOURS)
    parts = [mean, deviation, covariance[:, rows, cols]]
    return torch.cat(parts if quantiles is None else [*parts, quantiles.flatten(1)], 1)


def _limited(covariance: Tensor, own: Tensor, most: float) -> Tensor:
    """Covariances [N, 3, 3] that are nowhere more than so many times others."""
    root, inverse = (
        _of_eigenvalues(own, lambda values, power=power: values.clamp(min=FLOOR**2).pow(power)) for power in (0.5, -0.5)
    )
    ratio = _of_eigenvalues(inverse @ covariance @ inverse, lambda values: values.clamp(max=most))
    return root @ ratio @ root


def _of_eigenvalues(matrices: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of symmetric matrices [N, 3, 3]."""
    values, vectors = torch.linalg.eigh(matrices)
    return (vectors * function(values)[..., None, :]) @ vectors.transpose(-2, -1)
