"""Every key of a config: its type, range, default, unit and meaning; and which sections each command reads.

configs/default.yaml and configs/schema.json are written from here by `python -m utils.config`. A new key is a line in
its section. A new command, or verb of edit.py, is a class for its own section, a `command(...)` at the end of
this file, and its entries in PROGRAMS and Config.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WrapValidator, create_model

MANY = 10**12  # the largest number that stands for a count
LARGEST_SEED = 2**32 - 1


def read_rectangle(value: Any, check: Callable[[Any], list[int]]) -> list[int]:
    """A rectangle with at least a pixel; it may be given as text without brackets, too: 0,0,256,256."""
    edges = check([int(word) for word in value.split(",")] if isinstance(value, str) else value)
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise ValueError
    return edges


def read_scale(value: Any) -> int:
    """How many times smaller 1/2, 1/4 ... is, of 0.5 or the text 1/2; of 1 it is 1."""
    text = str(value)
    try:
        exact = float(text[2:]) if text.startswith("1/") else 1 / float(text)
        times = round(exact)
    except (ZeroDivisionError, OverflowError) as error:
        raise ValueError from error
    if times != exact or times < 1 or times & (times - 1):
        raise ValueError
    return times


# Types that several keys share. A title says what is allowed where limits do not say it all.
Count = Annotated[int, Field(ge=1, le=MANY)]
Whole = Annotated[int, Field(ge=0, le=MANY)]
Small = Annotated[int, Field(ge=1, le=64)]
Channels = Annotated[int, Field(ge=1, le=65536)]
Widths = Annotated[list[Channels], Field(max_length=16)]
StageWidths = Annotated[list[Channels], Field(min_length=3, max_length=8)]
EncoderWidths = Annotated[list[Channels], Field(max_length=8)]
Layers = Annotated[list[Channels], Field(max_length=64)]
Dilations = Annotated[list[Small], Field(max_length=64)]
Edge = Annotated[int, Field(ge=1, le=1_000_000)]  # pixels that a PNG has along an edge
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=256)]
Share = Annotated[float, Field(ge=0, le=1)]
Point = Annotated[list[Share], Field(min_length=2, max_length=2)]
Points = Annotated[list[Point], Field(min_length=1, max_length=256)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Weights = Annotated[list[Weight], Field(min_length=1, max_length=256)]
Factor = Annotated[float, Field(ge=0, le=1e3)]
Rate = Annotated[float, Field(gt=0, le=1e3)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Fps = Annotated[int, Field(ge=1, le=240)]  # frames per second
Minutes = Annotated[float, Field(gt=0, le=1e12)]
Noise = Literal["field", "none"]
Format = Literal["auto", "png", "tiff", "jpeg", "webp", "pyramid", "dzi"]
Dtype = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda", "mps"] | Annotated[str, Field(title="cuda:N", pattern=r"^cuda:\d{1,3}$")]
LINE = r"^[^\x00-\x1f\x85\u2028\u2029]+$"  # text without control characters
Path = Annotated[str, Field(title="a path (a line of text)", pattern=LINE), AfterValidator(os.path.expanduser)]
File = Path | None
Files = Annotated[list[Path], Field(max_length=64)]
Scale = Annotated[int, Field(title="1, 1/2, 1/4, 1/8 ... (a power of two)"), BeforeValidator(read_scale)]
SOURCES = f"a seed (a whole number from 0 to {LARGEST_SEED}), an image, latent file or saved style, or own"
Styles = Annotated[
    list[Annotated[Seed | Path, Field(title=SOURCES)]],
    Field(min_length=1, max_length=256),
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
]
FirstLast = Annotated[list[Whole], Field(title="[first, last], whole numbers from 0", min_length=2, max_length=2)]
Strength = Annotated[float, Field(ge=-3, le=3)]
Strengths = Annotated[list[Strength], Field(min_length=1, max_length=64)]
EDGES = "top, left, bottom, right (bottom and right excluded): four whole numbers from 0 on"
STEPS = "a list of edits, each {verb: {key: value, ...}}, and sections that the verb reads as well"
Edits = Annotated[list[dict[str, Any]], Field(title=STEPS, max_length=64)]
Rectangle = Annotated[list[Whole], Field(title=EDGES, min_length=4, max_length=4), WrapValidator(read_rectangle)]


def key(default: Any, meaning: str, **limits: float) -> Any:
    """A key, what it means (with its unit), and limits beside those of its type: ge, gt, le, lt, min_length ..."""
    return Field(default, description=meaning, **limits)


class Section(BaseModel):
    """Keys and sections that belong together."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Structure(Section):
    """Structure synthesizer: z_l, z_g, coordinates -> z_s."""

    layers: Small = key(4, "modulated convolutions")
    radius: int = key(3, "cells that a convolution reaches in each direction (kernel 2 * radius + 1)", ge=0, le=64)
    widths: Layers = key([], "channels of each layer (without a trunk, of all but the last); []: local_dim")
    dilations: Dilations = key([], "cells between the taps of each layer; []: 1")
    vertical_slope: Factor = key(0.3, "vertical coordinate: tanh(slope * rows below the canvas' centre)")
    horizontal_period: Count = key(140, "columns of the canvas after which the horizontal coordinates repeat")
    row_starts: Count = key(10, "rows of the canvas at which a training patch may start")


class Texture(Section):
    """Texture synthesizer: z_s, w, noise -> image."""

    widths: StageWidths = key([512] * 4, "channels of each stage, coarse to fine")
    mapping_layers: Small = key(8, "fully connected layers from z_g to w")
    mapping_lr_multiplier: Rate = key(0.01, "scales the learning rate of the mapping layers")


class Discriminator(Section):
    """Discriminator: patch -> score."""

    widths: Widths = key([256, *[512] * 5], "channels at full, 1/2, 1/4 ... resolution", min_length=1)
    minibatch_group: Count = key(4, "samples over which the minibatch standard deviation is taken")


class Critic(Section):
    """Critic of structure latents, in the stage structure: latents, style -> scores."""

    widths: Widths = key([96, 128, 192], "channels at full, 1/2, 1/4 ... resolution of the cells", min_length=1)
    texture_widths: Widths = key([32, 64], "channels at 1/2, 1/4 ... of the resolution of pixels", min_length=1)
    minibatch_group: Count = key(4, "samples over which the minibatch standard deviation is taken")
    style: bool = key(True, "judges latents and their style together; false: latents alone")


class Encoder(Section):
    """Patch encoder: image -> z_s."""

    convolution: Literal["shifted", "valid", "zero_pad", "rolled"] = key("shifted", "the last two show seams")
    shift: Small = key(1, "pixels between the taps of a shifted convolution")
    widths: EncoderWidths = key(
        [128, 256, 512, 512], "channels of each scale, fine to coarse, one scale per stage; []: the trunk alone"
    )
    depth: Small = key(1, "unit-stride convolutions of each scale")


class GlobalEncoder(Section):
    """Global encoder: thumbnail of the whole image -> z_g."""

    thumbnail: int = key(64, "edge of the square thumbnail, pixels", ge=2, le=4096)
    widths: Widths = key([64, 128, 256, 512], "channels of each halving of the thumbnail; []: z_g is random (ablation)")


class Model(Section):
    """Networks: sizes, which checkpoints bring along."""

    stages: int = key(4, "up-sampling stages; one latent cell covers 2^stages pixels", ge=3, le=8)
    trunk: bool = key(False, "latents begin with a linear transform, and their statistics are the style")
    local_dim: Channels = key(256, "channels of the local latent z_l and of the structure latent z_s")
    global_dim: Channels = key(512, "length of the global latent z_g and of the style w")
    structure: Structure = Structure()
    texture: Texture = Texture()
    discriminator: Discriminator = Discriminator()
    critic: Critic = Critic()
    encoder: Encoder = Encoder()
    global_encoder: GlobalEncoder = GlobalEncoder()


class Data(Section):
    """Photographs to train with."""

    train: File = key(None, "folder of images (searched recursively), zip file or LMDB")
    val: File = key(None, "the same; null sets val_fraction of train aside; none: no validation")
    val_fraction: float = key(0.05, "share of train that validates, by what an image holds", ge=0, lt=1)
    resize: Count | None = key(None, "pixels of the shorter side after resizing; null keeps native sizes")
    flip: bool = key(True, "mirror half of the crops")
    workers: int = key(2, "decoding processes", ge=0, le=1024)
    max_pixels: Count = key(2**28, "larger images are refused before they are decoded")
    max_bad_fraction: Share = key(0.01, "damaged files beyond this share, and a few, stop the training")


class Optimizer(Section):
    """Steps of gradient descent."""

    name: Literal["adam", "adamw", "muon"] = key("adam", "with muon, convolutions learn in far fewer steps")
    lr: Rate = key(0.002, "learning rate")
    betas: list[Decay] = key([0.0, 0.99], "decay of Adam's averages", min_length=2, max_length=2)
    weight_decay: Factor = key(0.0, "share of the weights that a step takes away, times lr (adam: L2 penalty)")
    decay_every: Count | None = key(None, "steps between decays of the learning rate; null: constant")
    decay_factor: float = key(0.1, "multiplies the learning rate at each decay", gt=0, le=1)
    cosine_steps: Count | None = key(None, "steps in which the learning rate falls to 0 along a cosine; null: none")


class Train(Section):
    """A run of train.py."""

    stage: Literal["generator", "inverter", "structure"] = key("generator", "what is trained")
    output: File = key(None, "run folder: config, checkpoints, events, exported weights")
    generator: File = key(None, "weights to go on from, null starts anew; inverter, without a trunk: those to invert")
    inverter: File = key(None, "structure: the inverter whose latents are learned")
    discriminator: File = key(None, "discriminator, or critic, weights to go on from; null starts anew")
    encoders: File = key(None, "inverter: inverter weights whose encoders to go on from; null starts anew")
    noise: Noise = key("none", "inverter: noise of the reconstructions; as infer.noise")
    tune_texture: bool = key(False, "inverter: train the texture synthesizer too; false leaves the generator as it is")
    device: Device = key("auto", "auto: CUDA where it is there")
    dtype: Dtype = key("auto", "bfloat16 by autocast; auto: bfloat16 where the device gains")
    steps: Count = key(800_000, "optimizer steps of the run")
    minutes: Minutes | None = key(None, "ends the run early, after this much time, all its sessions added up")
    batch: Count = key(16, "samples per process, at a time")
    accumulate: Count = key(1, "batches whose gradients make one step, to the same result as one batch of all samples")
    patch_cells: Count = key(11, "latent cells along the edge of a training patch")
    ema_images: Count = key(5000, "half-life of the averaged weights, in images")
    optimizer: Optimizer = Optimizer()
    style_mixing: Share = key(0.9, "generator: share of samples that mix two styles")
    log_every: Count = key(50, "steps between scalars")
    image_every: Count = key(1000, "steps between image grids")
    validate_every: Count = key(1000, "inverter: steps between validations")
    save_every: Count = key(1000, "steps between checkpoints")
    keep: Count = key(3, "checkpoints to keep")
    timeout_minutes: Minutes = key(10.0, "distributed: silence after which a process counts as lost")
    deterministic: bool = key(False, "ask PyTorch for deterministic kernels")


class GeneratorLosses(Section):
    """Weights of the terms of generator training."""

    adversarial: Weight = key(1.0, "logistic, non-saturating")
    r1: Weight = key(10.0, "gradient penalty on real images (the weight is gamma; gamma / 2 is applied)")
    path_length: Weight = key(2.0, "steps in w shall change images by equal amounts")
    diversity: Weight = key(1.0, "mode seeking: different local latents, different structures")
    coordinate: Weight = key(1.0, "the discriminator's guess of the vertical coordinate")


class StructureLosses(Section):
    """Weights of the terms of structure training."""

    whole: Weight = key(1.0, "relativistic, the critic's score of a grid")
    local: Weight = key(1.0, "relativistic, the critic's scores of its neighbourhoods")
    texture: Weight = key(1.0, "relativistic, the critic's scores of patches of what the trunk draws")
    penalty: Weight = key(5.0, "gradient penalties on real and on generated latents (gamma; gamma / 2 is applied)")


class InverterLosses(Section):
    """Weights of the terms of inverter training."""

    l1: Weight = key(0.0, "mean absolute difference of pixels")
    l2: Weight = key(1.0, "mean squared difference of pixels")
    ms_ssim: Weight = key(0.0, "multi-scale structural similarity")
    lpips: Weight = key(0.8, "needs pretrained AlexNet and LPIPS weights")
    identity: Weight = key(0.1, "needs pretrained ResNet-50 weights")
    adversarial: Weight = key(0.0, "logistic, non-saturating")
    feature_matching: Weight = key(0.0, "features of the discriminator")
    reciprocal: Weight = key(1.0, "E(TS(z_s)) against z_s")
    global_latent: Weight = key(1.0, "E_g(generated image) against its true z_g")
    distribution: Weight = key(0.5, "maximum mean discrepancy of E_g's outputs from the normal distribution")
    preservation: Weight = key(0.0, "what a tuned texture synthesizer generates against what it generated before")


class Pretrained(Section):
    """Local files of pretrained weights; null: torchvision's download."""

    alexnet: File = key(None, "AlexNet")
    lpips: File = key(None, "LPIPS v0.1 linear layers (alex.pth); null: those of the package lpips")
    resnet50: File = key(None, "ResNet-50")


class Losses(Section):
    """name: weight; a term is built only where its weight is not zero."""

    generator: GeneratorLosses = GeneratorLosses()
    r1_every: Count = key(16, "steps between gradient penalties")
    path_length_every: Count = key(4, "steps between path length penalties")
    generated_every: Count = key(1, "inverter: steps between terms of generated images; it multiplies their weights")
    inverter: InverterLosses = InverterLosses()
    structure: StructureLosses = StructureLosses()
    weights: Pretrained = Pretrained()


class PretrainedLosses(Section):
    """What evaluation needs of the losses."""

    weights: Pretrained = Pretrained()


class Compute(Section):
    """How networks are run."""

    device: Device = key("auto", "auto: CUDA where it is there")
    dtype: Dtype = key("auto", "auto: bfloat16 where the device gains")
    block: Literal["auto", "whole"] | Count = key("auto", "edge of a block in pixels; auto follows memory_mib")
    memory_mib: Count = key(1024, "memory beyond the loaded networks that `block: auto` keeps within, MiB")


class Reading(Compute):
    """How photographs are read."""

    max_pixels: Count = key(2**28, "larger images are refused before they are decoded; those read by window are not")


class Inversion(Reading):
    """How photographs are inverted."""

    refine: int = key(0, "steps that optimise structure latents after encoding", ge=0, le=100_000)
    refine_prior: Weight = key(0.0, "weight that draws them to the generator's own latents meanwhile; 0.001 to 0.1")
    refine_style: int = key(0, "steps that optimise the global latent before", ge=0, le=100_000)
    noise: Noise | None = key(None, "texture noise; null: that of saved latents, of photographs none (the closest)")
    seed: Seed = key(0, "of the noise field")
    channels: Count | None = key(None, "that are kept, with a trunk up to all coefficients; null: those of the model")


class Pictures(Compute):
    """How pictures are drawn and written."""

    format: Format = key("auto", "pyramid: TIFF of several resolutions; dzi: DeepZoom folder; auto: png, or tiff")
    depth: Literal[8, 16] = key(8, "bits of each colour; 16: png, tiff, pyramid")


class Edited(Inversion, Pictures):
    """How photographs are inverted, and pictures drawn and written."""

    metadata: bool = key(True, "keep a photograph's EXIF (date, camera, place), XMP and resolution in its results")
    region: Rectangle | None = key(None, "draw only [top, left, bottom, right], pixels; edits then save no latents")


class Infer(Edited):
    """Inversion (infer.py), and the computing of every command that draws images."""

    region: Rectangle | None = key(None, "with --latents: draw only [top, left, bottom, right], pixels")
    scale: Scale = key(1, "with --latents: a small picture, from the first channels alone (trunk)")
    comparison: Literal["auto"] | bool = key("auto", "picture of input, result, error; auto: up to 89 megapixels")
    latents: Literal["auto", "safetensors", "zarr", "none"] = key("auto", "auto: a file up to 1 GiB, zarr beyond")
    overwrite: bool = key(False, "do anew what is there already, of the same file, options and checkpoint")
    save_float: bool = key(False, "also write float/NAME.npy: H x W x 3 float32 in [-1, 1] before rounding")


class Evaluate(Section):
    """Inverters, measured on photographs (evaluate.py)."""

    details: Whole = key(50, "images, evenly spread, whose seams, edits and cycles are measured; 0: none")
    seam_block: Edge = key(64, "edge of the blocks whose seams are measured, pixels; below 4 latent cells: none are")
    hidden: Whole = key(10, "images in which a square and a frame are hidden and made anew; 0: none")
    cycles: Count = key(5, "inversions one after the other, each of the result before")
    pictures: Whole = key(8, "images shown in the report")
    generated: Whole = key(200, "generated images that encoded latents and real patches are compared with; 0: none")
    generated_size: Edge = key(128, "pixels along their edges")
    lpips: bool = key(False, "needs pretrained AlexNet and LPIPS weights (losses.weights)")
    inception: File = key(None, "file of Inception weights: FID and ScaleInv FID")
    scales: list[Small] = key([1, 2, 4], "canvases of ScaleInv FID, times generated_size", min_length=1, max_length=16)
    discriminator: File = key(None, "discriminator.safetensors of a generator run: scores edits and results")
    optimized: Whole = key(0, "images inverted also by optimisation from random latents, as InfinityGAN inverts")
    optimization_steps: Count = key(3000, "steps of that optimisation")


class Generated(Section):
    """Generated images that are edited."""

    height: Edge = key(512, "pixels")
    width: Edge = key(512, "pixels")
    count: Count = key(1, "images; image k uses seed + k")
    seed: Seed = key(0, "of the first image")
    seeds: Seeds | None = key(None, "of the images, in place of seed and count")
    noise: Noise = key("field", "the texture noise that the generator was trained with")


class Generate(Generated):
    """Generated images (generate.py)."""

    scale: Scale = key(1, "a small picture, from the first channels alone (trunk)")
    panorama: bool = key(False, "close the image horizontally; the width is then a multiple of a latent cell")
    save_latents: bool = key(False, "also write latents/seed-N.safetensors, for infer.py and edit.py")


class Fuse(Section):
    """Several styles in one image (edit.py fuse)."""

    styles: Styles = key([1, 2, 3, 4], "seed of a generated style | image, latent file, saved style | own (input's)")
    centres: Points | None = key(None, "[row, column] of each style, shares of height and width; null: left to right")
    mask: File = key(None, "image with one flat colour for each style, from dark to bright, stretched to the canvas")
    blur: int = key(127, "pixels to each side over which neighbouring styles blend", ge=0, le=1024)
    modulation: Literal["exact", "fast"] = key("exact", "fast: one convolution for all styles, as InfinityGAN")


class Styled(Section):
    """Another style, and where an image takes it."""

    styles: Styles = key([1], "seed of a generated style | image, latent file, saved style | own; several: a mean")
    weights: Weights | None = key(None, "of each style in the mean, in proportion; null: all alike")
    mask: File = key(None, "image, white where the style changes, stretched to the canvas; null: everywhere")
    soften: int = key(16, "pixels to each side over which the mask's edge is soft", ge=0, le=1024)


class Style(Styled):
    """An image in another style (edit.py style)."""

    strength: float = key(1.0, "0: as it is; 1: in the other style; beyond 1: overdone", ge=-4, le=4)
    what: Literal["both", "colours", "texture"] = key("both", "colours with their contrast, textures, or both (trunk)")


class Mix(Styled):
    """Some layers of an image in another style (edit.py mix)."""

    layers: FirstLast | None = key(None, "[first, last] in the other style, coarse to fine; null: all but 0, colours")


class Direction(Section):
    """A move along a direction of styles (edit.py direction)."""

    direction: File = key("day-dusk", "pca:K | sefa:K | name of a shipped one | .safetensors file of fit-direction")
    strength: Strength = key(1.0, "deviations of the images that it comes from; 0: the same image")
    strengths: Strengths | None = key(None, "or several, each a result, and a strip of them; null: strength alone")
    layers: FirstLast | None = key(None, "sefa: [first, last] of structure and texture synthesizer; null: structure")
    mask: File = key(None, "image, white where the image is moved, stretched to it; null: everywhere")
    soften: int = key(16, "pixels to each side over which the mask's border is softened", ge=0, le=1024)


class Complete(Section):
    """New structure that goes on from known structure (edit.py outpaint, inbetween, resample, fill)."""

    source: Literal["auto", "photograph", "generator", "both"] = key(
        "auto", "photograph: copied from it; both: and from generated images; auto: generator where it has noise"
    )
    sources: Files = key([], "photograph, both: further images or latent files to copy from")
    avoid: File = key(None, "photograph, both: image, white where nothing is copied from, stretched to the photograph")
    steps: Whole = key(
        60, "generator: of the fit of local latents to the known structure; 0 goes on without regard to it"
    )
    lr: Rate = key(0.15, "learning rate of local latents")
    style_lr: Factor = key(0.05, "learning rate of the new structure's global latent; 0: the photograph's")
    fidelity: Weight = key(10.0, "weight of the known structure against the draw of the seed")
    band: Small = key(6, "latent cells of known structure beside the border that the fit looks at")
    fade: int = key(12, "latent cells over which what the fit leaves fades out", ge=0, le=64)
    noise: Noise | None = key(
        None, "texture noise of what is new (infer.noise: of the rest); null: generator only"
    )


class Outpaint(Section):
    """A photograph on a larger canvas (edit.py outpaint)."""

    height: Edge | None = key(None, "of the canvas, pixels; null: twice the photograph's")
    width: Edge | None = key(None, "of the canvas, pixels; null: twice the photograph's")
    top: Whole | None = key(None, "of the photograph, pixels, a multiple of a latent cell; null: in the middle")
    left: Whole | None = key(None, "of the photograph, pixels, a multiple of a latent cell; null: in the middle")
    seed: Seed = key(0, "of what is new")
    count: Count = key(1, "canvases; canvas k uses seed + k")


class Inbetween(Section):
    """Two photographs at the ends of a canvas (edit.py inbetween)."""

    height: Edge | None = key(None, "of the canvas, pixels; null: that of the higher photograph")
    width: Edge | None = key(None, "of the canvas, pixels; null: half as much again as both photographs")
    seed: Seed = key(0, "of what is new")
    count: Count = key(1, "canvases; canvas k uses seed + k")


class Resample(Section):
    """A part of an image made anew (edit.py resample)."""

    what: Literal["structure", "noise"] = key("structure", "structure: new local latents; noise: new texture noise")
    mask: File = key(None, "image, white where the result is new, stretched to the canvas")
    box: Rectangle | None = key(None, "or [top, left, bottom, right] of what is new, pixels")
    seed: Seed = key(1, "of what is new")
    count: Count = key(1, "results; result k uses seed + k")


class Interpolate(Section):
    """A film from each image to the next (edit.py interpolate)."""

    what: Literal["style", "structure", "both"] = key("both", "that changes; the other stays that of the first image")
    frames: Count = key(48, "from each image to the next; slow near them")
    fps: Fps = key(24, "frames per second")
    loop: bool = key(False, "also from the last image to the first")


class Pan(Section):
    """A film along an image, or along a generated one without end (edit.py pan)."""

    step: Count = key(4, "pixels from frame to frame")
    frames: Count | None = key(None, "null: as many as the image has room for, 240 of a generated one")
    length: Edge | None = key(None, "of a frame along the axis, pixels; null: half of the image (generated: all of it)")
    to: Seed | None = key(None, "seed of the style that it has become at the end; null: it stays")
    axis: Literal["horizontal", "vertical"] = key("horizontal", "to the right, or downwards (no generated images)")
    fps: Fps = key(24, "frames per second")


class Fill(Section):
    """Something taken out of a photograph (edit.py fill)."""

    mask: File = key(None, "image, white where something is taken out, stretched to the photograph")
    box: Rectangle | None = key(None, "or [top, left, bottom, right] of it, pixels")
    seed: Seed = key(0, "of what is new")
    count: Count = key(1, "results; result k uses seed + k")


EDITS = (Edits, key([], "one after the other: [{fuse: {styles: [own, 3]}}, ...] (edit.py chain)"))
SEED = (Seed, key(0, "all randomness is a function of it and of the position (step, index, row, column)"))


def command(own: str, **sections: type[Section] | tuple) -> type[Section]:
    """What a command reads: sections, or keys as (type, default). The keys of its `own` section need no prefix."""
    fields = {name: kind if isinstance(kind, tuple) else (kind, kind()) for name, kind in sections.items()}
    return create_model(f"{own.title()}Config", __base__=Section, own=(ClassVar[str], own), **fields)


TrainConfig = command("train", seed=SEED, model=Model, data=Data, train=Train, losses=Losses)
InferConfig = command("infer", infer=Infer)
EvaluateConfig = command("evaluate", seed=SEED, evaluate=Evaluate, infer=Inversion, losses=PretrainedLosses)
GenerateConfig = command("generate", generate=Generate, infer=Pictures)
FuseConfig = command("fuse", fuse=Fuse, generate=Generated, infer=Edited)
StyleConfig = command("style", style=Style, generate=Generated, infer=Edited)
MixConfig = command("mix", mix=Mix, generate=Generated, infer=Edited)
DirectionConfig = command("direction", direction=Direction, generate=Generated, infer=Edited)
CollectConfig = command("infer", infer=Reading)
OutpaintConfig = command("outpaint", outpaint=Outpaint, complete=Complete, infer=Edited)
InbetweenConfig = command("inbetween", inbetween=Inbetween, complete=Complete, infer=Edited)
FillConfig = command("fill", fill=Fill, complete=Complete, infer=Edited)
ResampleConfig = command("resample", resample=Resample, generate=Generated, complete=Complete, infer=Edited)
ChainConfig = command("edits", edits=EDITS, generate=Generated, infer=Edited)
InterpolateConfig = command("interpolate", interpolate=Interpolate, generate=Generated, infer=Inversion)
PanConfig = command("pan", pan=Pan, generate=Generated, infer=Inversion)

PROGRAMS = {
    "train.py": TrainConfig, "infer.py": InferConfig, "generate.py": GenerateConfig, "evaluate.py": EvaluateConfig,
    "edit.py fuse": FuseConfig, "edit.py style": StyleConfig, "edit.py mix": MixConfig,
    "edit.py save-style": CollectConfig, "edit.py direction": DirectionConfig, "edit.py fit-direction": CollectConfig,
    "edit.py outpaint": OutpaintConfig, "edit.py inbetween": InbetweenConfig, "edit.py fill": FillConfig,
    "edit.py resample": ResampleConfig, "edit.py interpolate": InterpolateConfig, "edit.py pan": PanConfig,
    "edit.py chain": ChainConfig,
}  # fmt: skip

# All sections that there are, as configs/default.yaml shows them.
Config = command(
    "", seed=SEED, model=Model, data=Data, train=Train, losses=Losses, infer=Infer, evaluate=Evaluate,
    generate=Generate, fuse=Fuse, style=Style, mix=Mix, direction=Direction, complete=Complete, outpaint=Outpaint,
    inbetween=Inbetween, fill=Fill, resample=Resample, interpolate=Interpolate, pan=Pan, edits=EDITS,
)  # fmt: skip
