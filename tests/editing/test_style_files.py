"""Styles in files: they come back, and what is none of the model's is named."""

import pytest
import torch

from editing import style_files
from editing.style_files import FORMAT, load_style, read_style, save_style
from inversion.styles import mean_style
from tests.inversion.conftest import photograph
from utils.checkpoint import save_weights
from utils.errors import UserError

MOST = 10**6


def test_a_saved_style_comes_back(trunk_model, tmp_path, monkeypatch):
    """By its path and by its name, to the last bit."""
    monkeypatch.chdir(tmp_path)
    style = mean_style([trunk_model.style(photograph(40, 50, k)) for k in range(2)])
    save_style(trunk_model, style, "styles/dusk.safetensors")
    latents = trunk_model.generate(8, 8, style=style)
    latents.save("latents.safetensors")
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


def test_models_without_a_trunk_have_styles_too(model, tmp_path):
    save_style(model, model.style(3), tmp_path / "a.safetensors")
    found = load_style(model, tmp_path / "a.safetensors")
    assert torch.equal(found.global_latent, model.style(3).global_latent) and not found.measured


WRONG = {  # values, metadata: what is said
    "a style of another model .other; the checkpoint has": (None, {"space": "other"}),
    r"\[7\]; a style has 78 finite numbers": (torch.zeros(7), {}),
    "float64": (torch.zeros(78, dtype=torch.float64), {}),
    "values that are not finite": (torch.full((78,), float("nan")), {}),
    "format 'x', not": (None, {"format": "x"}),
}


@pytest.mark.parametrize("said", WRONG)
def test_files_that_do_not_fit(trunk_model, tmp_path, said):
    values, changes = WRONG[said]
    values = trunk_model.style(1).global_latent if values is None else values
    metadata = {"format": FORMAT, "space": trunk_model.style_space} | changes
    save_weights(tmp_path / "a.safetensors", {"style": values}, metadata)
    with pytest.raises(UserError, match=said) as error:
        load_style(trunk_model, tmp_path / "a.safetensors")
    assert "a.safetensors" in str(error.value)


def test_damaged_files_and_other_suffixes(trunk_model, tmp_path):
    save_style(trunk_model, trunk_model.style(1), tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-4])
    for read in (load_style, lambda *given: read_style(*given, MOST)):
        with pytest.raises(UserError, match="not a whole|damaged"):
            read(trunk_model, str(tmp_path / "a.safetensors"))
    with pytest.raises(UserError, match="styles are saved as .safetensors"):
        save_style(trunk_model, trunk_model.style(1), tmp_path / "a.png")
