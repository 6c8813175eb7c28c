"""Styles in files: they come back, and what is none of the model's is named."""

import pytest
import torch

from editing import style_files
from editing.style_files import load_style, read_style, save_style
from inversion.styles import Style, mean_style
from tests.inversion.conftest import photograph
from utils.checkpoint import save_weights
from utils.errors import UserError

MOST = 10**6


def test_a_saved_style_comes_back(trunk_model, model, tmp_path, monkeypatch):
    """By its path and by its name, to the last bit."""
    monkeypatch.chdir(tmp_path)
    style = mean_style([trunk_model.style(photograph(40, 50, k)) for k in range(2)])
    save_style(trunk_model, style, "styles/dusk.safetensors")
    trunk_model.generate(8, 8, style=style).save("latents.safetensors")
    for item in ("styles/dusk.safetensors", "dusk", "latents.safetensors"):
        found = read_style(trunk_model, item, MOST)
        assert torch.equal(found.global_latent, style.global_latent) and found.measured
    with pytest.raises(UserError, match="noon: neither a file nor a saved style; those in styles.: dusk"):
        read_style(trunk_model, "noon", MOST)
    monkeypatch.setattr(style_files, "FOLDER", tmp_path / "none")
    with pytest.raises(UserError, match="those in .*none.: none"):
        read_style(trunk_model, "noon", MOST)
    with pytest.raises(UserError, match="x.png: cannot be read"):
        read_style(trunk_model, "x.png", MOST)
    with pytest.raises(UserError, match="styles are saved as .safetensors"):
        save_style(trunk_model, style, "a.png")
    save_style(model, model.style(3), "a.safetensors")  # without a trunk
    found = load_style(model, "a.safetensors")
    assert torch.equal(found.global_latent, model.style(3).global_latent) and not found.measured


def test_files_that_do_not_fit_are_one_line(trunk_model, model, tmp_path):
    path, style = tmp_path / "a.safetensors", trunk_model.style(1)
    wrong = {
        r"a style of another model \(tiny; the checkpoint has": lambda: save_style(model, style, path),
        r"\[7\]; a style has 78 finite numbers": lambda: save_style(trunk_model, Style(torch.zeros(7)), path),
        "values that are not finite": lambda: save_style(trunk_model, Style(torch.full((78,), torch.nan)), path),
        "no style .format 'x', not": lambda: save_weights(path, {"style": style.global_latent}, {"format": "x"}),
        "damaged": lambda: path.write_bytes(path.read_bytes()[:-4]),
    }
    for said, write in wrong.items():
        write()
        with pytest.raises(UserError, match=rf"^[^\n]*{said}[^\n]*$") as error:
            load_style(trunk_model, path)
        assert "a.safetensors" in str(error.value)
    with pytest.raises(UserError, match="not a whole"):
        read_style(trunk_model, str(path), MOST)
