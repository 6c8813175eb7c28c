"""Speed and memory of the inversion, beside the published algorithm and a pass over the whole image.

    python -m benchmarks.inversion [--quick] [--sizes 256 512 ...] [--json FILE] [--checkpoint FILE] [key=value ...]
    python -m benchmarks.inversion --quick --json quick.json     # 512 x 512 only, minutes on two cores
    python -m benchmarks.inversion --sizes --huge 16384 32768    # infer.py as a whole, on tiled TIFF files

Without --checkpoint the networks are those of configs/default.yaml, with random weights. Each line of the table is a
median of `count` runs after a warm-up; a run of more than --limit seconds is done once. The published algorithm
(benchmarks.published) is timed on patches spread evenly over the image, each once, where all of them would take too
long or --quick is given: its time is then the median of a patch times their number, and `count` tells how many of them.
All methods have the same networks, float32 without TF32, and the allocator's settings of this program.

- method: `published`; `blocks`, this program; `whole`, the same with the image as one block, where memory allows;
  `infer.py`, the command with all its files
- of peak: multiply-adds of the image drawn as a whole, times two, per second, over that of a large matrix product in
  the same number format; the libraries of some processors are faster at a convolution than at a product, so `of conv`
  is the same over that of a large 3x3 convolution
- twice: multiply-adds beyond those
- working MiB: peak memory beyond that held before (the networks, the image); on CUDA, PyTorch's tensors
--json writes all figures, and a plot beside them as PNG.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import PIL.Image
import tifffile
import torch

from benchmarks import machine
from benchmarks.inference import invert as run_infer
from benchmarks.inference import positive
from benchmarks.memory import photograph
from benchmarks.published import Canvas, Published
from benchmarks.report import HEADING, Row, line, write
from datasets.image import Image
from inversion.blocks import Plan, blocks, plan
from inversion.cost import decode_cost, encode_cost
from inversion.passes import Decoder, Encoder
from inversion.scenes import Scene
from models import build_encoders, build_generator
from models.geometry import Region
from models.weights import SHIPPED, Inverter, load_inverter
from utils import log
from utils.config import load_config
from utils.device import select_device, tune_allocator, use_exact_float32
from utils.errors import run_command
from utils.schema import Infer, InferConfig, Model, command

SIZES = (256, 512, 1024, 2048, 4096, 8192)  # edges of images, pixels
QUICK_SIZE = 512
BLOCKS = (64, 128, 256, 512)  # edges of blocks
BUDGET = "infer.memory_mib=2048"
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
PATCHES = 31  # of the published algorithm that are timed where not all are: a fourth of those of 512 px
SPARE = 0.8  # of the free memory, which a whole image may take
COLOURS = 0.2  # scales random colours to the range of images
TILE, TEXTURE = 256, 4096  # pixels: edge of a tile, and of the picture that fills a huge one


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write the files that are asked for."""
    arguments = make_parser().parse_intermixed_args(argv)
    tune_allocator()
    use_exact_float32()
    read = InferConfig if arguments.checkpoint else command("infer", model=Model, infer=Infer)
    config = load_config(read, None, [BUDGET, *arguments.overrides])
    sizes = arguments.sizes if arguments.sizes is not None else [QUICK_SIZE] if arguments.quick else SIZES
    log.info(HEADING)
    rows, figures = [], {"machine": machine.describe(select_device(config.infer.device))}
    if sizes:
        networks = load_inverter(arguments.checkpoint) if arguments.checkpoint else random_inverter(config.model)
        bench = Bench(networks, config.infer, arguments)
        for size in sizes:
            rows += bench.measure(size)
        figures |= bench.summary(QUICK_SIZE if QUICK_SIZE in sizes else sizes[0], rows)
    for size in arguments.huge:
        rows.append(whole_program(size, arguments.checkpoint or SHIPPED, arguments.overrides))
        log.info(line(rows[-1]))
    log.info("\n".join(f"{name}: {figures[name]}" for name in figures if name not in ("model", "infer")))
    if arguments.json:
        write(arguments.json, figures, rows)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SIZE} px only, and only what is compared")
    parser.add_argument("--sizes", type=positive, nargs="*", help=f"edges, pixels ({' '.join(map(str, SIZES))})")
    parser.add_argument("--blocks", type=positive, nargs="*", default=BLOCKS, help="edges beside infer.block")
    parser.add_argument("--blocks-at", type=positive, default=1024, help="size at which they are measured")
    parser.add_argument("--huge", type=positive, nargs="*", default=[], help="edges of TIFF files for infer.py")
    parser.add_argument("--repeats", type=positive, default=5, help="measurements of each line")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for each line, beyond one run")
    parser.add_argument("--checkpoint", type=Path, help="inverter to measure; --huge takes the shipped one without it")
    parser.add_argument("--json", type=Path, help="file for the figures; the plot is written beside it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="`infer` options; `model` without checkpoint")
    return parser


def random_inverter(model: dict) -> Inverter:
    """The networks of a `model` section with random weights, whose images have the magnitude of trained ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator, encoders = build_generator(model).eval(), build_encoders(model)
    for stage in generator.texture.synthesis:
        stage.to_rgb.conv.weight.data *= COLOURS
    return Inverter(generator, *(encoder.eval() for encoder in encoders), model, fingerprint="random")


class Bench:
    """The methods that are compared, and their measurements."""

    def __init__(self, networks: Inverter, options: dict, arguments: argparse.Namespace) -> None:
        self.networks, self.options, self.arguments = networks, options, arguments
        self.device = select_device(options["device"])
        self.products = {name: machine.product_flops(self.device, dtype) for name, dtype in DTYPES.items()}
        self.convolutions = {name: machine.convolution_flops(self.device, dtype) for name, dtype in DTYPES.items()}
        self.texture = networks.generator.texture
        self.encoders = {name: Encoder(networks, self.device, dtype) for name, dtype in DTYPES.items()}
        self.decoders = {name: Decoder(networks.generator, self.device, dtype) for name, dtype in DTYPES.items()}
        self.yardstick = Published(networks, self.device)
        self.z_g = torch.randn(networks.model["global_dim"], generator=torch.Generator().manual_seed(0))

    def measure(self, size: int) -> list[Row]:
        """The rows of an image of size x size; each is printed when it is there."""
        image = Image(PIL.Image.fromarray(photograph(size)))
        actions = [partial(self.published, image)]
        actions += [partial(self.ours, image, name, self.options["block"]) for name in DTYPES]
        if not self.arguments.quick:
            actions += [partial(self.ours, image, name, "whole") for name in DTYPES if self.fits(size, name)]
            edges = self.arguments.blocks if size == self.arguments.blocks_at else []
            edges = [edge for edge in edges if edge >= self.yardstick.cell]
            actions += [partial(self.ours, image, name, edge) for name in DTYPES for edge in edges]
        rows = []
        for action in actions:
            rows.append(action())
            log.info(line(rows[-1]))
        return rows

    def published(self, image: Image) -> Row:
        """The published algorithm, as a whole where that is quick enough."""
        size, patches, limit = image.height, self.yardstick.patches(image.height, image.width), self.arguments.limit
        canvas = Canvas(self.yardstick, image, self.z_g)
        canvas.draw(0, 0)
        chosen = patches[:: -(-len(patches) // PATCHES)]
        draw = [partial(canvas.draw, *patch) for patch in chosen]
        times, memory = machine.watched(lambda: [machine.seconds(each, self.device) for each in draw], self.device)
        counted = len(patches)
        if not self.arguments.quick and median(times) * len(patches) * (self.arguments.repeats + 1) <= limit:
            (times, memory), counted = self.repeated(partial(self.yardstick.invert, image, self.z_g)), 1
        twice = len(patches) * self.yardstick.macs() / self.useful_macs(size) - 1
        return self.row("published", size, "float32", str(self.yardstick.drawn), twice, times, memory, counted)

    def ours(self, image: Image, name: str, block: str | int) -> Row:
        """This program in a number format, in blocks of an edge (or `auto`, `whole`)."""
        size, plan = image.height, self.plan_of(image.height, name, block)
        times, memory = self.repeated(partial(self.invert, image, name, plan))
        edges = str(plan.pixels[0]) + (f" of {plan.batch}" if plan.batch > 1 else "")
        method = "whole" if block == "whole" else "blocks"
        return self.row(method, size, name, edges, self.computed_twice(size, name, plan), times, memory)

    def repeated(self, action: Callable[[], object]) -> tuple[list[float], machine.Memory | None]:
        """The seconds of an action, several times, and the memory that was held meanwhile."""
        run = partial(machine.repeated, action, self.device, self.arguments.repeats, self.arguments.limit)
        return machine.watched(run, self.device)

    def row(
        self, method: str, size: int, dtype: str, block: str, twice: float,
        times: list[float], memory: machine.Memory | None, patches: int = 1,
    ) -> Row:  # fmt: skip
        """The row of a measurement, which took so many seconds for a whole image, or for one of its patches."""
        seconds, of = median(times) * patches, f"of {patches} patches" if patches > 1 else "images"
        speed, flops = size**2 / 1e6 / seconds, 2 * self.useful_macs(size) / seconds
        fractions = flops / self.products[dtype], flops / self.convolutions[dtype]
        held = (memory.working, memory.peak) if memory else (None, None)
        return Row(method, size, dtype, block, len(times), of, seconds, speed, *fractions, twice, *held)

    def invert(self, image: Image, name: str, plan: Plan, eight_bit: bool = True) -> np.ndarray:
        """Encode and decode an image: its pixels [H, W, 3] uint8, or float32."""
        size, encoder, decoder = (image.height, image.width), self.encoders[name], self.decoders[name]
        cells = decoder.cells(*size)
        z_g, z_s = encoder.encode_global(image), torch.empty(self.networks.model["local_dim"], *cells.shape)
        for region, block in encoder.encode(image, blocks(cells, plan.cells)):
            z_s[(slice(None), *region.slices_in(cells))] = block
        scene = Scene(size, lambda region: z_s[(slice(None), *region.slices_in(cells))], z_g, None, stored=True)
        canvas = Region.at(0, 0, *size)
        pixels = np.empty((*size, 3), np.uint8 if eight_bit else np.float32)
        groups = decoder.groups(scene, blocks(canvas, plan.pixels), plan.batch)
        for region, block in decoder.decode(scene, groups, eight_bit):
            pixels[region.slices_in(canvas)] = block
        return pixels

    def plan_of(self, size: int, name: str, block: str | int) -> Plan:
        """The blocks of an image."""
        options = self.options | {"block": block}
        return plan(options, (size, size), self.texture, DTYPES[name], self.networks.encoder, held=3 * size**2)

    def macs(self, size: int, name: str, plan: Plan) -> int:
        """Multiply-adds of an image in these blocks."""
        canvas, dtype = Region.at(0, 0, size, size), DTYPES[name]
        drawn = (decode_cost(self.texture, region, dtype) for region in blocks(canvas, plan.pixels))
        cells = blocks(canvas.receptive_field(self.texture.rule), plan.cells)
        encoded = (encode_cost(self.networks.encoder, region, dtype) for region in cells)
        return sum(cost.macs for costs in (drawn, encoded) for cost in costs)

    def useful_macs(self, size: int) -> int:
        """Multiply-adds of an image as one block."""
        return self.macs(size, "float32", self.plan_of(size, "float32", "whole"))

    def computed_twice(self, size: int, name: str, plan: Plan) -> float:
        """Share of the multiply-adds that these blocks add to those of the whole."""
        return self.macs(size, name, plan) / self.useful_macs(size) - 1

    def fits(self, size: int, name: str) -> bool:
        """Whether the image as one block fits into the free memory."""
        canvas = Region.at(0, 0, size, size)
        drawn = decode_cost(self.texture, canvas, DTYPES[name])
        encoded = encode_cost(self.networks.encoder, canvas.receptive_field(self.texture.rule), DTYPES[name])
        return max(drawn.bytes, encoded.bytes) < SPARE * machine.free_memory(self.device)

    def summary(self, size: int, rows: list[Row]) -> dict:
        """The figures that are compared, of one size."""
        ours = {name: self.planned(rows, size, name) for name in DTYPES}
        published = next(row for row in rows if (row.method, row.size) == ("published", size))
        image = Image(PIL.Image.fromarray(photograph(size)))
        plans = {name: self.plan_of(size, name, self.options["block"]) for name in DTYPES}
        exact, short = (self.invert(image, name, plans[name], eight_bit=False) for name in DTYPES)
        return {
            "networks": str(self.arguments.checkpoint or "configs/default.yaml, random weights"),
            "model": dict(self.networks.model),
            "infer": dict(self.options),
            "size": size,
            **{f"speedup_{name}": published.seconds / row.seconds for name, row in ours.items()},
            "computed_twice": ours["float32"].computed_twice,
            "computed_twice_bf16": ours["bf16"].computed_twice,
            "computed_twice_published": published.computed_twice,
            **{f"fraction_of_peak_{name}": row.fraction_of_peak for name, row in ours.items()},
            **{f"fraction_of_convolution_{name}": row.fraction_of_convolution for name, row in ours.items()},
            **{f"seconds_{name}": row.seconds for name, row in ours.items()},
            "seconds_published": published.seconds,
            "published_timed": f"{published.count} {published.of}",
            "psnr_bf16": 10 * float(np.log10(4 / np.square(exact - short, dtype=np.float64).mean())),
            **{f"peak_gflops_{name}": flops / 1e9 for name, flops in self.products.items()},
            **{f"convolution_gflops_{name}": flops / 1e9 for name, flops in self.convolutions.items()},
            "copy_gigabytes_per_second": machine.copy_rate(self.device) / 1e9,
        }

    def planned(self, rows: list[Row], size: int, name: str) -> Row:
        """The row of this program with the blocks of the options."""
        return next(row for row in rows if (row.method, row.size, row.dtype) == ("blocks", size, name))


def whole_program(size: int, checkpoint: Path, overrides: list[str]) -> Row:
    """infer.py on a tiled TIFF file, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.tif")
        write_tiff(path, size)
        figures = run_infer(path, checkpoint, overrides)[0]
    seconds, speed, peak = (float(figures[key]) for key in ("seconds", "megapixels_per_second", "peak_memory_mib"))
    options = load_config(InferConfig, None, overrides).infer
    block = str(options.block)
    return Row("infer.py", size, options.dtype, block, 1, "images", seconds, speed, peak_memory_mib=peak)


def write_tiff(path: Path, size: int) -> None:
    """A tiled TIFF file of size x size pixels, written tile by tile: one picture, repeated."""
    texture = cv2.cvtColor(photograph(TEXTURE), cv2.COLOR_BGR2RGB)
    starts = range(0, size, TILE)
    tiles = (texture[row % TEXTURE :, col % TEXTURE :][:TILE, :TILE] for row in starts for col in starts)
    tifffile.imwrite(
        path, tiles, shape=(size, size, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb", bigtiff=True
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
