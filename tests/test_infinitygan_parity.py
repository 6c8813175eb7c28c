"""The comparison with the public InfinityGAN code: passes where numbers agree, and fails where they do not."""

import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.infinitygan_parity import FILES, PARAMETERS, main, minibatch_group, relative_error, run
from tests.infinitygan_reference import write_folder
from utils.errors import run_command

RESULTS = re.compile(
    r"(out|mid)\..*|fusion\.(ss_|ts_).*|fusion\.pixel_map\d+_crop|test_.*|const_grid|perturb_range|train_(ac_)?coords"
    r"|(adv|ac|div|mmd)\..*loss.*|path\.(penalty|mean_out)|pl\.lengths|down\.k\d+"
)
UNRECORDED = re.compile(r"checkpoint: .*|geometry|in\.coords|const_grid: size")  # these follow from no single tensor
OTHER_SIZES = {
    "seed": 5,
    "global_dim": 5,
    "local_dim": 4,
    "widths": (6, 6, 5, 5, 4, 4, 4, 4, 2, 2),
    "mapping_layers": 2,
    "structure_layers": 2,
    "radius": 2,
    "vertical_samples": 7,
    "horizontal_share": 0.5,
    "discriminator_widths": (2, 3, 3),
    "patches": (1, 2),
    "target": (150, 170),
    "centres": ((0.5, 0.25), (0.5, 0.75)),
    "blur_kernel": 9,
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A folder of numbers from the reference equations."""
    folder = tmp_path_factory.mktemp("reference")
    write_folder(folder)
    return folder


@pytest.fixture
def copy(reference, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(reference, tmp_path / "copy")


def change(path, pattern, factor):
    """Multiply the tensors of a file whose names match."""
    tensors = load_file(path)
    found = {name for name in tensors if re.fullmatch(pattern, name)}
    save_file({name: value * factor if name in found else value for name, value in tensors.items()}, path)
    return found


def recorded(folder):
    """Names of all recorded results, with their files."""
    return {
        (file, name) for file in FILES for name in load_file(folder / f"{file}.safetensors") if RESULTS.fullmatch(name)
    }


def test_every_result_of_the_reference_is_compared_and_agrees(reference, capsys):
    assert main([str(reference)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith("not compared")]
    for file, name in recorded(reference):
        assert any(re.match(rf"{file} +{re.escape(name)}[ ,:]", line) for line in lines), f"{file}: {name}"
    assert re.fullmatch(rf"{len(lines) - 1} quantities, 0 above 0.0001; the largest error is .*", lines[-1])


def test_other_sizes_agree(tmp_path, capsys):
    write_folder(tmp_path, **OTHER_SIZES)
    assert main([str(tmp_path)]) == 0, capsys.readouterr().out


def test_every_changed_result_is_seen(copy):
    names = set()
    for file in FILES:
        names |= change(copy / f"{file}.safetensors", RESULTS, 1.001)
    assert names
    agreeing = [str(result) for result in run(copy, lambda line: None) if result.passed]
    assert not [line for line in agreeing if not UNRECORDED.match(line.split(maxsplit=1)[1])]


@pytest.mark.parametrize(
    "pattern", [r".*stack\.2.*modulation\.weight", r".*mapping\.2\.bias", r".*\.3\.noise\.weight", r".*rgbs\.1\.bias"]
)
def test_a_changed_weight_is_seen(copy, capsys, pattern):
    assert change(copy / "infinitygan_state_dict.safetensors", pattern, 1.05)
    assert run_command(main, [str(copy)]) == 1
    above = [line for line in capsys.readouterr().out.splitlines() if line.endswith("ABOVE")]
    assert {"checkpoint:", "out.image,"} <= {line.split()[1] for line in above}


@pytest.mark.parametrize("name", [PARAMETERS, "infinitygan_best_fid.pth.tar", "infinitygan_state_dict.safetensors"])
def test_a_missing_network_is_one_line(copy, capsys, name):
    (copy / name).unlink()
    assert run_command(main, [str(copy)]) == 2
    assert capsys.readouterr().err == f"error: {copy}: no {name}\n"


def test_missing_numbers_are_named(copy, capsys):
    (copy / "coords.safetensors").unlink()
    assert run_command(main, [str(copy)]) == 0
    printed = capsys.readouterr().out
    assert "not compared: there is no coords.safetensors" in printed and "out.image" in printed


@pytest.mark.parametrize("name", [PARAMETERS, "infinitygan_best_fid.pth.tar", "infinitygan_patch_io.safetensors"])
def test_a_cut_file_is_one_line(copy, capsys, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    assert run_command(main, [str(copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line


@pytest.mark.parametrize(
    ("file", "edit", "told"),
    [
        ("coords", lambda tensors: tensors.pop("train_coords"), "no tensor train_coords"),
        ("infinitygan_direct_io", lambda tensors: tensors["out.image"].fill_(float("nan")), "not finite"),
        ("infinitygan_patch_io", lambda tensors: tensors.update({"in.local": torch.zeros(2, 6, 3)}), "does not fit"),
        ("infinitygan_state_dict", lambda tensors: tensors.popitem(), "is missing"),
    ],
)
def test_damaged_content_is_one_line(copy, capsys, file, edit, told):
    path = copy / f"{file}.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    assert run_command(main, [str(copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(copy) in line and file in line and told in line


def test_relative_error():
    assert relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])) == 0.5
    assert relative_error([3, 4], [3, 4]) == 0 and relative_error(True, False) == float("inf")
    assert relative_error(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert not relative_error(torch.tensor(float("nan")), torch.tensor(1.0)) <= 1


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (4, 4), (6, 6), (16, 16), (20, 4), (28, 4), (30, 5)])
def test_minibatch_groups_of_the_public_code(batch, group):
    assert minibatch_group(4, batch) == group


@pytest.mark.skipif("INFINITYGAN_FIXTURES" not in os.environ, reason="INFINITYGAN_FIXTURES names no folder of numbers")
def test_recorded_numbers_agree(capsys):
    assert run_command(main, [os.environ["INFINITYGAN_FIXTURES"]]) == 0, capsys.readouterr().out
