"""How the official networks correspond to the ones here: arguments of the constructor, fixed tables, names of keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.dit import DiT, LightningDiT
from kdiff.networks.jit import JiT
from kdiff.networks.uvit import UViT


def _positions(network: ModulatedTransformer) -> dict[str, Tensor]:
    return {"pos_embed": network.pos_embed}


@dataclass(frozen=True)
class Architecture:
    """What is official about a network: the arguments of its constructor, its fixed tables, and the keys with other names here.

    An argument has a default (the official one) only if a wrong value would show in the weights, if it has just one value here,
    or if it matters in training only. For other arguments (num_heads, in_context_start) a default could be silently wrong. The
    same is true of use_rope, for weights without their fixed tables: the tables are its only trace in the weights.
    """

    network: Callable[..., nn.Module]
    # official name → our name, or a function from the value to our arguments
    arguments: Mapping[str, str | Callable[[Any], Mapping[str, Any]]]
    kind: Callable[[nn.Module], bool]  # whether one of our networks has this architecture
    tables: Callable[[Any], dict[str, Tensor]] = _positions  # the fixed tables of one of our networks, by official key
    defaults: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)  # our key → official key


def _positions_and_rotations(network: LightningDiT) -> dict[str, Tensor]:
    tables = _positions(network)
    if network.rotary is not None:
        cosines, signed_sines = network.rotary
        sign = torch.tensor([-1.0, 1.0], device=cosines.device).repeat(cosines.shape[1] // 2)
        tables |= {"feat_rope.freqs_cos": cosines, "feat_rope.freqs_sin": signed_sines * sign}
    return tables


def _uvit(
    num_classes: int, null_class: bool, skip: bool, depth: int, qk_scale: float | None, norm_layer: Any, **settings: Any
) -> UViT:
    """UViT from official arguments: num_classes counts "no class" and is −1 without labels; depth // 2 blocks on each side."""
    if not skip:
        raise ValueError("skip is False; expected True: kdiff has no U-ViT without skips")
    usual = (settings["hidden_size"] // settings["num_heads"]) ** -0.5
    if qk_scale and abs(qk_scale / usual - 1) > 1e-6:
        raise ValueError(f"qk_scale is {qk_scale}; expected None, or the usual {usual:.6g}; kdiff has no other")
    if norm_layer not in (None, nn.LayerNorm):
        raise ValueError(f"norm_layer is {norm_layer}; expected torch.nn.LayerNorm; kdiff has no U-ViT with another norm")
    if num_classes == 1 and null_class:
        raise ValueError(
            "num_classes is 1, and U-ViT counts “no class” among its classes, so no real class is left; expected "
            "null_class=False if that one is a real class, or num_classes=-1 for a network without labels"
        )
    rows = max(num_classes, 0)
    null_class = null_class and rows > 0
    return UViT(num_classes=rows - null_class, null_class=null_class, depth=depth - depth % 2, **settings)


def _named(names: str) -> dict[str, Any]:
    """{official name: our name} from "official=ours …"; a name alone is the same on both sides."""
    return {official: ours or official for official, _, ours in (name.partition("=") for name in names.split())}


_JIT = _named("input_size=image_size patch_size in_channels=channels num_classes hidden_size depth num_heads mlp_ratio")
_DIT = _JIT | {"class_dropout_prob": lambda rate: {"null_class": rate > 0}, "learn_sigma": "learn_sigma"}
_DEFAULTS = {"mlp_ratio": 4.0, "class_dropout_prob": 0.1, "learn_sigma": True}
_SWITCHES = ("learn_sigma", "use_qknorm", "use_swiglu", "use_rmsnorm", "wo_shift", "use_checkpoint")

ARCHITECTURES = {
    "jit": Architecture(
        network=JiT,
        kind=lambda network: isinstance(network, JiT),
        arguments=_JIT
        | _named("bottleneck_dim=bottleneck in_context_len=context_tokens in_context_start=context_start")
        | _named("attn_drop=attention_dropout proj_drop=dropout"),
        defaults={"mlp_ratio": 4.0, "attn_drop": 0.0, "proj_drop": 0.0},
    ),
    "dit": Architecture(
        DiT, _DIT, kind=lambda network: isinstance(network, DiT) and not network.drop_sigma, defaults=_DEFAULTS
    ),
    "sit": Architecture(
        network=DiT,
        kind=lambda network: isinstance(network, DiT) and network.drop_sigma == network.learn_sigma,
        arguments=_DIT | {"learn_sigma": lambda on: {"learn_sigma": on, "drop_sigma": on}},
        defaults=_DEFAULTS,
    ),
    "lightningdit": Architecture(
        network=LightningDiT,
        kind=lambda network: isinstance(network, LightningDiT),
        arguments=_DIT
        | _named("use_qknorm=qk_norm use_swiglu=swiglu use_rope=rope use_rmsnorm=rmsnorm")
        | {"wo_shift": lambda off: {"shift": not off}, "use_checkpoint": "checkpointing"},
        tables=_positions_and_rotations,
        defaults=_DEFAULTS | dict.fromkeys(_SWITCHES, False),
    ),
    "uvit": Architecture(
        network=_uvit,
        kind=lambda network: isinstance(network, UViT),
        arguments=_named(
            "img_size=image_size patch_size in_chans=channels num_classes embed_dim=hidden_size depth num_heads mlp_ratio "
            "qkv_bias qk_scale norm_layer mlp_time_embed=time_mlp conv=final_conv skip use_checkpoint=checkpointing null_class"
        ),
        tables=lambda network: {},
        defaults={"in_chans": 3, "mlp_ratio": 4.0, "qk_scale": None, "norm_layer": None}
        | dict.fromkeys(("qkv_bias", "mlp_time_embed", "use_checkpoint"), False)
        | dict.fromkeys(("conv", "skip", "null_class"), True),
        renamed={"y_embedder.embedding_table.weight": "label_emb.weight"},
    ),
}
