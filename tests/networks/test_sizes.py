"""Networks of published sizes: they have the published numbers of parameters, and are found by name."""

from __future__ import annotations

import pytest
import torch

from kdiff.networks import DiT, JiT, LightningDiT, UViT, published
from kdiff.run.build import build


# Millions, as the papers have them; LightningDiT's two largest, whose names say 1.0B and 1.6B, as they come out.
@pytest.mark.parametrize(
    ("name", "size", "channels", "classes", "options", "millions"),
    [
        ("JiT-B/16", 256, 3, 1000, {}, 131),
        ("JiT-L/16", 256, 3, 1000, {}, 459),
        ("JiT-L/32", 512, 3, 1000, {}, 462),
        ("JiT-H/16", 256, 3, 1000, {}, 953),
        ("DiT-S/2", 32, 4, 1000, {"learn_sigma": True}, 33),
        ("DiT-B/2", 32, 4, 1000, {"learn_sigma": True}, 130),
        ("DiT-L/2", 32, 4, 1000, {"learn_sigma": True}, 458),
        ("DiT-XL/2", 32, 4, 1000, {"learn_sigma": True}, 675),
        ("SiT-XL/2", 32, 4, 1000, {"learn_sigma": True, "drop_sigma": True}, 675),
        ("LightningDiT-XL/1", 16, 32, 1000, {}, 675),
        ("LightningDiT-1p0B/1", 16, 32, 1000, {}, 1029),
        ("LightningDiT-1p6B/1", 16, 32, 1000, {}, 1631),
        ("U-ViT-S/2", 32, 3, 0, {}, 44),
        ("U-ViT-S-deep/2", 32, 3, 0, {}, 58),
        ("U-ViT-M/4", 64, 3, 1000, {"null_class": False}, 131),
        ("U-ViT-L/2", 32, 4, 1000, {}, 287),
        ("U-ViT-H/2", 32, 4, 1000, {}, 501),
    ],
)
def test_published_sizes_have_the_published_parameters(name, size, channels, classes, options, millions):
    with torch.device("meta"):
        network = published(name, size, channels, classes, **options)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "kind"),
    [("JiT-B/4", JiT), ("DiT-S/4", DiT), ("SiT-B/8", DiT), ("LightningDiT-B/2", LightningDiT), ("U-ViT-S-deep/4", UViT)],
)
def test_a_name_builds_a_network_as_a_configuration_does_and_options_differ_from_it(name, kind):
    tiny = {"hidden_size": 24, "depth": 2, "num_heads": 2, **({"context_tokens": 0} if kind is JiT else {})}
    options = ", ".join(f"{key}={value}" for key, value in tiny.items())
    network = build("network", f"{name}({options})", shape=(2, 16, 8), channels=2, image_size=(16, 8), num_classes=3)
    assert type(network) is kind
    assert network.patch_size == int(name[-1])
    assert network(torch.randn(1, 2, 16, 8), torch.rand(1), torch.tensor([3])).shape == (1, 2, 16, 8)
    network = build("network", f"{kind.__name__}(patch_size=4, {options})", channels=2, image_size=(16, 8), num_classes=0)
    assert type(network) is kind


def test_a_published_uvit_reads_times_in_0_1_as_its_authors_scaled_them():
    assert published("U-ViT-S/2", 4, 3, 0, hidden_size=16, depth=2, num_heads=2).time_scale == 999


@pytest.mark.parametrize(
    "name", ["JiT-B", "JiT-S/2", "DiT-B/x", "JiT-B/16/2", "JiT-B/0", "SiT-H/2", "XiT-B/2", "U-ViT-B/2", "S/2"]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=r"no network is called '.*'; expected FAMILY-SIZE/PATCH.*SiT-S\|B\|L\|XL"):
        published(name, 16, 3, 10)


def test_configurations_are_told_of_unknown_sizes_and_vectors():
    with pytest.raises(ValueError, match="expected FAMILY-SIZE/PATCH"):
        build("network", "DiT-Q/2", channels=3, image_size=(16, 16), num_classes=0)
    with pytest.raises(ValueError, match=r"a published size \('JiT-B/16'\)"):
        build("network", "DiTT", shape=(3,), num_classes=0)
    with pytest.raises(ValueError, match="needs a value for image_size, channels"):
        build("network", "DiT-S/2", shape=(3,), num_classes=0)


def test_a_patch_has_one_side_for_all_axes_or_a_list_of_them():
    def grid(patch):
        name = f"JiT(patch_size={patch}, hidden_size=8, depth=1, num_heads=1)"
        return build("network", name, channels=1, image_size=(8, 8), num_classes=0).grid

    assert [grid(patch) for patch in ("4", "4e0", "[2, 4]")] == [(2, 2), (2, 2), (4, 2)]
    for wrong in ("abc", "1.5", "[1, 2.5]"):
        with pytest.raises(ValueError, match=r"patch_size of JiT is .*; expected a whole number or a list"):
            grid(wrong)
    with pytest.raises(ValueError, match=r"patch_size is \[8\] with image_size 8×8; expected one number, or 2"):
        grid("[8]")
