"""Fixtures that several folders of tests share."""

import pytest
import torch
from hypothesis import settings

# A busy core is no failure.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

# Operators that torchvision describes when it is imported; its compiled library may not fit the installed torch.
TORCHVISION_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, importable even where its compiled operators cannot be loaded: networks need none of them."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in TORCHVISION_SCHEMAS:
            library.define(schema)
        import torchvision
    else:
        library = None
    yield torchvision
    del library  # the schemas live as long as their library
