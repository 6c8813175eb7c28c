"""Random weights in the layout of the public InfinityGAN code: names, shapes, kernels and what no network reads."""

from collections import OrderedDict

import torch

SMALL = {"widths": (6, 4, 5), "local_dim": 4, "global_dim": 6, "layers": 2, "radius": 1, "mapping_layers": 2}
PUBLISHED = {
    "widths": (512, 512, 512, 512), "local_dim": 256, "global_dim": 512, "layers": 4, "radius": 3, "mapping_layers": 8
}  # fmt: skip
PUBLISHED_DISCRIMINATOR = (256, 512, 512, 512, 512, 512)


def outer(*taps):
    return torch.tensor(taps)[:, None] * torch.tensor(taps)


def public_generator(widths, local_dim, global_dim, layers, radius, mapping_layers, seed=0):
    """State dict; `widths` are the channels of each stage."""
    random = torch.Generator().manual_seed(seed)
    state, convolutions = OrderedDict(), [width for width in widths for _ in range(2)]

    def put(name, *shape):
        state[name] = torch.randn(shape, generator=random)

    def modulated(name, inputs, outputs, kernel):
        put(f"{name}.weight", 1, outputs, inputs, kernel, kernel)
        put(f"{name}.modulation.weight", inputs, global_dim)
        put(f"{name}.modulation.bias", inputs)

    for i in range(layers):
        name = f"structure_synthesizer.implicit_model.conv_stack.{i}.conv"
        modulated(f"{name}.conv", local_dim + 3, local_dim, 2 * radius + 1)
        put(f"{name}.activate.bias", local_dim)
    for i in range(1, mapping_layers + 1):
        put(f"texture_synthesizer.mapping.{i}.weight", global_dim, global_dim)
        put(f"texture_synthesizer.mapping.{i}.bias", global_dim)
    put("texture_synthesizer.const_z.input", 1, local_dim, 4, 4)
    for i, (inputs, outputs) in enumerate(zip([local_dim, *convolutions], convolutions, strict=False)):
        name = f"texture_synthesizer.convs.{i}"
        modulated(f"{name}.conv", inputs, outputs, 3)
        if i % 2 == 0:
            state[f"{name}.conv.blur.kernel"] = outer(0.5, 1.0, 0.5)
        put(f"{name}.noise.weight", 1)
        put(f"{name}.activate.bias", outputs)
        put(f"texture_synthesizer.noises.noise_{i}", 1, 1, *[4 * 2 ** ((i + 1) // 2)] * 2)
    for k, width in enumerate(widths):
        name = f"texture_synthesizer.to_rgbs.{k}"
        put(f"{name}.bias", 1, 3, 1, 1)
        state[f"{name}.upsample.kernel"] = outer(0.5, 1.0, 0.5)
        modulated(f"{name}.conv", width, 3, 1)
    return state


def public_discriminator(widths=(4, 4, 6), edge=7, seed=0):
    """State dict; `edge` is that of the last feature in pixels."""
    random = torch.Generator().manual_seed(seed)
    state = OrderedDict()

    def put(name, *shape):
        state[name] = torch.randn(shape, generator=random)

    put("convs.0.0.weight", widths[0], 3, 1, 1)
    put("convs.0.1.bias", widths[0])
    for i, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False), start=1):
        put(f"convs.{i}.conv1.0.weight", inputs, inputs, 3, 3)
        put(f"convs.{i}.conv1.1.bias", inputs)
        state[f"convs.{i}.conv2.0.kernel"] = outer(0.125, 0.375, 0.375, 0.125)
        put(f"convs.{i}.conv2.1.weight", outputs, inputs, 3, 3)
        put(f"convs.{i}.conv2.2.bias", outputs)
        state[f"convs.{i}.skip.0.kernel"] = outer(0.125, 0.375, 0.375, 0.125)
        put(f"convs.{i}.skip.1.weight", outputs, inputs, 1, 1)
    last = widths[-1]
    put("final_conv.0.weight", last, last + 1, 3, 3)
    put("final_conv.1.bias", last)
    for name, outputs in (("final_linear", 1), ("coord_linear", 3)):
        put(f"{name}.0.weight", last, last * edge**2)
        put(f"{name}.0.bias", last)
        put(f"{name}.1.weight", outputs, last)
        put(f"{name}.1.bias", outputs)
    return state


def public_checkpoint(**changed):
    """The dict that the public code saves, of small networks for patches of 29 px (8 cells); None leaves a key out."""
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.002, "params": [0]}]}
    held = {
        "iter": 1234,
        "best_fid": 11.25,
        "g": public_generator(**SMALL, seed=1),
        "d": public_discriminator(),
        "g_ema": public_generator(**SMALL, seed=2),
        "g_optim": optimizer,
        "d_optim": optimizer,
        "mean_path_lengths": [torch.tensor(1.5)],
    } | changed
    return {name: value for name, value in held.items() if value is not None}
