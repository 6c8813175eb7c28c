"""Invert photographs of any size, or decode saved latents again.

    python infer.py --input FILE_OR_FOLDER --output FOLDER [--checkpoint FILE] [--config FILE] [key=value ...]
    python infer.py --latents FILE_OR_FOLDER --output FOLDER infer.seed=7

Writes reconstruction/, comparison/, latents/, metrics.csv and summary.json into the output folder; see the README.
Exit code: 0 all done; 1 some images failed, the others are done; 2 the command itself was wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.image import find_images, open_image
from inversion.blocks import block_edge, count_blocks
from inversion.latents import Description, LatentStore
from inversion.outputs import PictureWriter, Record, clean, write_figures
from inversion.passes import Decoder, Encoder
from models.geometry import Region
from models.noise import NoiseField
from models.weights import SHIPPED, Inverter, load_inverter
from utils.config import load_config
from utils.device import peak_memory_mib, reset_peak_memory, select_device, select_dtype, use_exact_float32
from utils.errors import UserError, run_command
from utils.files import atomic_path
from utils.log import complain, say
from utils.signals import exit_on_terminate

FIGURES_EVERY = 10.0  # seconds between updates of metrics.csv and summary.json


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, and invert or decode one image after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, help="an image, or a folder that is searched for images")
    source.add_argument("--latents", type=Path, help="a latent file of an earlier run, or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="inverter.safetensors of train.py")
    parser.add_argument("--config", help="YAML file with `infer` options")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single options, as infer.block=256")
    arguments = parser.parse_intermixed_args(argv)
    options = load_config(arguments.config, arguments.overrides, sections=("infer",)).infer
    tool = Tool.load(arguments.checkpoint, options)
    if arguments.latents:
        files = find_files("--latents", arguments.latents, find_latents, ".safetensors file")
    else:
        search = partial(find_photographs, output=arguments.output)
        files = find_files("--input", arguments.input, search, "JPEG, PNG, WebP, TIFF or BMP image")

    settings = {"checkpoint": str(arguments.checkpoint), "weights": tool.networks.fingerprint, "infer": dict(options)}
    return process(files, tool.decode_file if arguments.latents else tool.invert_file, arguments.output, settings)


def process(files: dict[Path, str], work: Callable[[Path, str, Path], Record], output: Path, settings: dict) -> int:
    """Do one file after the other, naming in one line each that fails; the command's exit code."""
    exit_on_terminate()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from error
    clean(output)
    records, failed, written = [], {}, time.monotonic()
    try:
        for path, name in tqdm(files.items(), desc="images", unit="image", disable=len(files) == 1):
            try:
                records.append(work(path, name, output))
                say(line(records[-1]))
            except UserError as error:
                failed[name] = str(error)
            except (MemoryError, RuntimeError) as error:
                failed[name] = out_of_memory(path, error)
            if name in failed:
                complain(f"failed: {failed[name]}")
            if time.monotonic() - written > FIGURES_EVERY:
                write_figures(output, records, failed, settings)
                written = time.monotonic()
    finally:
        write_figures(output, records, failed, settings)  # an interrupted run too tells what it has done
    say(f"{len(records)} of {len(files)} images done; results in {output}")
    return 1 if failed else 0


@dataclass(frozen=True)
class Tool:
    """An inverter ready for use, and the options that it is used with."""

    networks: Inverter
    encoder: Encoder
    decoder: Decoder
    options: dict
    device: torch.device
    dtype: torch.dtype

    @staticmethod
    def load(checkpoint: Path, options: dict) -> Tool:
        """Load the networks and check the options before anything is computed."""
        device = select_device(options.device)
        dtype = select_dtype(options.dtype, device)
        use_exact_float32()
        networks = load_inverter(checkpoint)
        encoder, decoder = Encoder(networks, device, dtype), Decoder(networks.generator, device, dtype)
        tool = Tool(networks, encoder, decoder, options, device, dtype)
        tool.edge(1, 1)
        return tool

    def edge(self, height: int, width: int) -> int:
        """Edge of the blocks for an image of this size, pixels."""
        texture, encoder = self.networks.generator.texture, self.networks.encoder
        return block_edge(self.options.block, self.options.memory_mib, (height, width), texture, self.dtype, encoder)

    def invert_file(self, path: Path, name: str, output: Path) -> Record:
        """Encode and decode an image; its row of the table."""
        reset_peak_memory(self.device)
        started = time.perf_counter()
        image = open_image(path, self.options.max_pixels)
        if image.transparent:
            say(f"note: {path}: what is transparent counts as mid-grey")
        size = image.height, image.width
        cells, edge = self.decoder.cells(*size), self.edge(*size)
        z_g = self.encoder.encode_global(image)
        origin = cells.rows.first, cells.cols.first
        description = Description(*size, origin, self.options.seed or 0, self.networks.fingerprint)
        shape = (self.networks.model["local_dim"], *cells.shape)
        latents = output / "latents" / f"{name}.safetensors"
        with progress(name, size, edge, count_blocks(cells, self.encoder.cells_per_block(edge))) as bar:
            with atomic_path(latents) as temporary:
                store = LatentStore.create(temporary, description, shape, z_g)
                for region, z_s in self.encoder.encode(image, cells, edge):
                    store.write(region, z_s)
                    bar.update()
            writer = PictureWriter(output, name, size, image, self.options.save_float)
            self._draw(LatentStore.open(latents), edge, writer, bar)
        return self._record(name, size, writer, started)

    def decode_file(self, path: Path, name: str, output: Path) -> Record:
        """Draw the image of saved latents; its row of the table."""
        reset_peak_memory(self.device)
        started = time.perf_counter()
        store = LatentStore.open(path)
        if store.description.weights != self.networks.fingerprint:
            raise UserError(
                f"{path}: encoded by the weights {store.description.weights}, but the checkpoint has"
                f" {self.networks.fingerprint}"
            )
        size = store.description.height, store.description.width
        if store.cells != self.decoder.cells(*size):
            raise UserError(f"{path}: its latents do not cover an image of {size[0]} x {size[1]}")
        edge = self.edge(*size)
        writer = PictureWriter(output, name, size, None, self.options.save_float)
        with progress(name, size, edge) as bar:
            self._draw(store, edge, writer, bar)
        return self._record(name, size, writer, started)

    def _draw(self, store: LatentStore, edge: int, writer: PictureWriter, bar: tqdm) -> None:
        seed = store.description.seed if self.options.seed is None else self.options.seed
        noise = NoiseField(seed, self.device) if self.options.noise == "field" else None
        image = Region.at(0, 0, *writer.size)
        with writer:
            for region, pixels in self.decoder.decode(store.read, store.z_g, image, edge, noise):
                writer.add(region, pixels)
                bar.update()

    def _record(self, name: str, size: tuple[int, int], writer: PictureWriter, started: float) -> Record:
        seconds = time.perf_counter() - started
        rate = size[0] * size[1] / 1e6 / seconds
        return Record(name, *size, **writer.metrics(), seconds=seconds, megapixels_per_second=rate,
                      peak_memory_mib=peak_memory_mib(self.device))  # fmt: skip


def find_files(option: str, path: Path, search: Callable[[Path], list[Path]], kind: str) -> dict[Path, str]:
    """The file that an option names, or what `search` finds in the folder, with the names of the results."""
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{option} {path}: no such file or folder")
        return {path: path.stem}
    files = search(path)
    if not files:
        raise UserError(f"{option} {path}: no {kind} in this folder")
    return unique_names(files, path)


def find_photographs(folder: Path, output: Path) -> list[Path]:
    """The images of a folder, without the results of an earlier run in an output folder inside it."""
    if output.resolve() == folder.resolve():
        raise UserError(f"--output {output}: is the input folder; results need a folder of their own")
    files = find_images(folder)
    if output.resolve().is_relative_to(folder.resolve()):
        files = [file for file in files if not file.resolve().is_relative_to(output.resolve())]
    return files


def find_latents(folder: Path) -> list[Path]:
    """The latent files of a folder."""
    return sorted(file for file in folder.rglob("*.safetensors") if not file.name.startswith("."))


def unique_names(files: list[Path], folder: Path) -> dict[Path, str]:
    """a/b.jpg -> a/b, but a/b.jpg and a/b.png keep their suffixes; in a hopeless case all files do."""
    whole = [str(file.relative_to(folder)) for file in files]
    stems = [str(Path(name).with_suffix("")) for name in whole]
    count = Counter(stems)
    names = [stem if count[stem] == 1 else name for stem, name in zip(stems, whole, strict=True)]
    return dict(zip(files, names if len(set(names)) == len(names) else whole, strict=True))


def progress(name: str, size: tuple[int, int], edge: int, more: int = 0) -> tqdm:
    """A progress bar over the blocks of an image, and `more` blocks before them."""
    total = more + count_blocks(Region.at(0, 0, *size), edge)
    return tqdm(total=total, desc=name, unit="block", leave=False, disable=total < 8)


def line(record: Record) -> str:
    """One line on a finished image."""
    quality = "" if record.psnr is None else f"  PSNR {record.psnr:.2f} dB  SSIM {record.ssim:.3f}"
    return (
        f"{record.name}  {record.height} x {record.width}{quality}  {record.seconds:.2f} s"
        f"  peak {record.peak_memory_mib:.0f} MiB"
    )


def out_of_memory(path: Path, error: Exception) -> str:
    """A line for an image that did not fit into memory; anything else is an error of ours and goes on."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        torch.cuda.empty_cache()
        return f"{path}: out of memory; smaller blocks need less (infer.block, infer.memory_mib)"
    raise error


if __name__ == "__main__":
    sys.exit(run_command(main))
