"""Published weights in and out: the official implementations' state dicts and this package's networks.

Networks here carry the published key names, so that the mapping is the identity but for the prefixes of wrappers, for the name
of U-ViT's table of labels, and for fixed tables, which are computed here: a published one is compared, and then left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.networks.backbone import ModulatedTransformer
from kdiff.networks.dit import DiT, LightningDiT
from kdiff.networks.embedding import LabelEmbedding
from kdiff.networks.jit import JiT
from kdiff.networks.uvit import UViT
from kdiff.weights import Weights, read_weights

# A table may have gone through half precision or a moving average; another layout differs by about 1.
TABLE_TOLERANCE = 0.01


@dataclass(frozen=True)
class _Architecture:
    """What is official about a network: the constructor's arguments, fixed tables, and keys that we call otherwise.

    Only such arguments have a default, the official one, as leave a trace in the weights, have but one value here, or act in
    training alone: of others (num_heads, in_context_start) a default would be silently wrong. So it would be of use_rope for
    weights that have lost their fixed tables, its only trace.
    """

    network: Callable[..., nn.Module]
    arguments: Mapping[str, str | Callable[[Any], Mapping[str, Any]]]  # official → ours, or a function of the value to ours
    kind: Callable[[nn.Module], bool]  # whether a network of ours is of this architecture
    tables: Callable[[Any], dict[str, Tensor]]  # of a network of ours, by official key
    defaults: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)  # ours → official


def _positions(network: ModulatedTransformer) -> dict[str, Tensor]:
    return {"pos_embed": network.pos_embed}


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
    """Official U-ViT counts "no class" as a class, has −1 classes for none, and depth // 2 blocks on either side of one."""
    if not skip:
        raise ValueError("skip is False; expected True: U-ViT without its skips is not among the networks here")
    usual = (settings["hidden_size"] // settings["num_heads"]) ** -0.5
    if qk_scale and abs(qk_scale / usual - 1) > 1e-6:
        raise ValueError(f"qk_scale is {qk_scale}; expected None, or the usual {usual:.6g}: no other is known here")
    if norm_layer not in (None, nn.LayerNorm):
        raise ValueError(f"norm_layer is {norm_layer}; expected torch.nn.LayerNorm: no other is among the networks here")
    if num_classes == 1 and null_class:
        raise ValueError(
            "num_classes is 1, and U-ViT counts “no class” among its classes: nothing but that would be left; expected "
            "null_class=False where the one is a class, or num_classes=-1 for a network without labels"
        )
    rows = max(num_classes, 0)
    null_class = null_class and rows > 0
    return UViT(num_classes=rows - null_class, null_class=null_class, depth=depth - depth % 2, **settings)


_JIT: dict[str, Any] = {
    "input_size": "image_size",
    "patch_size": "patch_size",
    "in_channels": "channels",
    "num_classes": "num_classes",
    "hidden_size": "hidden_size",
    "depth": "depth",
    "num_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
}
_DIT = _JIT | {"class_dropout_prob": lambda rate: {"null_class": rate > 0}, "learn_sigma": "learn_sigma"}
_DEFAULTS = {"mlp_ratio": 4.0, "class_dropout_prob": 0.1, "learn_sigma": True}

ARCHITECTURES = {
    "jit": _Architecture(
        network=JiT,
        kind=lambda network: isinstance(network, JiT),
        arguments=_JIT
        | {"bottleneck_dim": "bottleneck", "in_context_len": "context_tokens", "in_context_start": "context_start"}
        | {"attn_drop": "attention_dropout", "proj_drop": "dropout"},
        tables=_positions,
        defaults={"mlp_ratio": 4.0, "attn_drop": 0.0, "proj_drop": 0.0},
    ),
    "dit": _Architecture(
        network=DiT,
        kind=lambda network: isinstance(network, DiT) and not network.drop_sigma,
        arguments=_DIT,
        tables=_positions,
        defaults=_DEFAULTS,
    ),
    "sit": _Architecture(
        network=DiT,
        kind=lambda network: isinstance(network, DiT) and network.drop_sigma == network.learn_sigma,
        arguments=_DIT | {"learn_sigma": lambda on: {"learn_sigma": on, "drop_sigma": on}},
        tables=_positions,
        defaults=_DEFAULTS,
    ),
    "lightningdit": _Architecture(
        network=LightningDiT,
        kind=lambda network: isinstance(network, LightningDiT),
        arguments=_DIT
        | {
            "use_qknorm": "qk_norm",
            "use_swiglu": "swiglu",
            "use_rope": "rope",
            "use_rmsnorm": "rmsnorm",
            "wo_shift": lambda off: {"shift": not off},
            "use_checkpoint": "checkpointing",
        },
        tables=_positions_and_rotations,
        defaults=_DEFAULTS
        | {
            "learn_sigma": False,
            "use_qknorm": False,
            "use_swiglu": False,
            "use_rmsnorm": False,
            "wo_shift": False,
            "use_checkpoint": False,
        },
    ),
    "uvit": _Architecture(
        network=_uvit,
        kind=lambda network: isinstance(network, UViT),
        arguments={
            "img_size": "image_size",
            "patch_size": "patch_size",
            "in_chans": "channels",
            "num_classes": "num_classes",
            "embed_dim": "hidden_size",
            "depth": "depth",
            "num_heads": "num_heads",
            "mlp_ratio": "mlp_ratio",
            "qkv_bias": "qkv_bias",
            "qk_scale": "qk_scale",
            "norm_layer": "norm_layer",
            "mlp_time_embed": "time_mlp",
            "conv": "final_conv",
            "skip": "skip",
            "use_checkpoint": "checkpointing",
            "null_class": "null_class",
        },
        tables=lambda network: {},
        defaults={
            "in_chans": 3,
            "mlp_ratio": 4.0,
            "qkv_bias": False,
            "mlp_time_embed": False,
            "conv": True,
            "skip": True,
            "use_checkpoint": False,
            "null_class": True,
            "qk_scale": None,
            "norm_layer": None,
        },
        renamed={"y_embedder.embedding_table.weight": "label_emb.weight"},
    ),
}


def from_official(architecture: str, weights: Weights, *, entry: str | None = None, **config: Any) -> nn.Module:
    """A network with the weights of an official implementation, in float32.

    It takes t as the official forward does. JiT, SiT and LightningDiT have t = 0 noise and 1 data, as kdiff has, and so need
    nothing. Official DiT counts steps 0 … 999, 999 for noise, and U-ViT is handed 999 t′ or a step 1 … 1000, large for noise:
    to use those in a model, wrap the network in one that turns t.

    Args:
        architecture: "jit", "dit", "sit", "lightningdit" or "uvit".
        weights: a state dict; a training checkpoint, of which the moving average is taken (see `entry`); or the path of either,
            `.safetensors`, or `.pth` and `.pt`, which are read without running anything. Prefixes of wrappers ("module.",
            "net.") are removed.
        entry: which of a checkpoint's state dicts to take, "model_ema2". If left out: the moving average ("ema", of JiT's two
            "model_ema1"), else "model" or "state_dict".
        config: the arguments of the official constructor, by their official names (`input_size`, `in_channels`, …). Those
            have their official default of which a wrong value would not fit the weights (`mlp_ratio`, `learn_sigma`, …), or
            acts in training alone (JiT's dropout, `attn_drop` and `proj_drop`). U-ViT, which counts "no class" among its
            classes, also takes `null_class`: False where the last is a class as any other (the ImageNet-64 models).

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown architecture; arguments missing or unknown; a file that is no weights; several state dicts to
            choose from; keys that are missing, left over or misshapen (all are listed); a fixed table that differs from
            the one computed here.
        TypeError: no state dict.
    """
    official = _architecture(architecture)
    given = {**official.defaults, **config}
    missing = [name for name in official.arguments if name not in given]
    unknown = [name for name in given if name not in official.arguments]
    if missing or unknown:
        wrong = "; ".join(
            f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names
        )
        raise ValueError(f"{wrong}; {architecture} takes {', '.join(official.arguments)}")
    settings: dict[str, Any] = {}
    for name, value in given.items():
        ours = official.arguments[name]
        settings |= {ours: value} if isinstance(ours, str) else ours(value)
    state = read_weights(weights, entry)
    network = official.network(**settings)
    _load(network, state, official)
    return network


def load_official(architecture: str, network: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Put the weights of an official implementation into a network that is there already; `from_official` makes one.

    Args:
        architecture: "jit", "dit", "sit", "lightningdit" or "uvit".
        network: of that architecture; it gets copies.
        state_dict: by official keys, fixed tables included.

    Raises:
        ValueError: an unknown architecture, a network of another, or a state dict that does not fit, as for `from_official`.
    """
    official = _architecture(architecture)
    _check_architecture(architecture, network)
    _load(network, state_dict, official)


def to_official(architecture: str, network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network by official keys, fixed tables included: what `from_official` reads, and the originals.

    Weights come back exactly as `from_official` read them, tables as they are computed here. As with `state_dict`, the tensors
    are the network's own: save or copy them before it is trained on. U-ViT's own scale of time is not among them: the official
    network of these weights is handed time_scale · t.

    Args:
        architecture: "jit", "dit", "sit", "lightningdit" or "uvit".
        network: a network of that architecture, with a table of labels (U-ViT also without labels).

    Raises:
        ValueError: an unknown architecture, a network of another, or one whose conditions the original does not know.
    """
    official = _architecture(architecture)
    _check_architecture(architecture, network)
    labels: Any = network.y_embedder
    if not isinstance(labels, LabelEmbedding) and not (labels is None and architecture == "uvit"):
        found = "no classes" if labels is None else f"a {type(labels).__name__} for its condition"
        raise ValueError(
            f"the network has {found}; expected a table of labels, which is all that official {architecture} knows"
        )
    return {key: value.detach().contiguous() for key, value in _expected(network, official).items()}


def is_official(architecture: str, network: nn.Module) -> bool:
    """Whether a network is of an official architecture, by its name there."""
    return _architecture(architecture).kind(network)


def _check_architecture(architecture: str, network: nn.Module) -> None:
    if not is_official(architecture, network):
        raise ValueError(
            f"{architecture!r} does not describe this {type(network).__name__}; expected the name of its own architecture"
        )


def _architecture(name: str) -> _Architecture:
    if name not in ARCHITECTURES:
        raise ValueError(f"no architecture is called {name!r}; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def _expected(network: nn.Module, official: _Architecture) -> dict[str, Tensor]:
    """The network's tensors by official key."""
    weights = {official.renamed.get(key, key): value for key, value in network.state_dict().items()}
    return weights | official.tables(network)


def _unfit(problems: Mapping[str, list[str]], found: int, expected: str) -> str:
    """What is wrong with a state dict: a sentence, and then every tensor that does not fit."""
    counts = ", ".join(f"{len(names)} {what}" for what, names in problems.items() if names)
    misshapen, others = len(problems["misshapen"]), len(problems["missing"]) + len(problems["left over"])
    hint = "; it is of another size: depth, widths, patches, channels and classes must be those of the weights"
    lines = [f"{what}: {name}" for what, names in problems.items() for name in names]
    fits = f"the state dict of {found} tensors does not fit this configuration, a {expected}: {counts}"
    return "\n  ".join([fits + hint * (misshapen > others), *lines])


def _load(network: nn.Module, state_dict: Mapping[str, Tensor], official: _Architecture) -> None:
    """Copy the weights, after naming every key that does not fit."""
    expected, tables = _expected(network, official), official.tables(network)
    shared = {key: value for key, value in state_dict.items() if key in expected}
    problems = {
        "missing": [f"{key} {tuple(value.shape)}" for key, value in expected.items() if key not in state_dict],
        "left over": [f"{key} {tuple(value.shape)}" for key, value in state_dict.items() if key not in expected],
        "misshapen": [
            f"{key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
            for key, value in shared.items()
            if value.shape != expected[key].shape
        ],
        "without values": [f"{key} is on the meta device" for key, value in state_dict.items() if value.is_meta],
        "no weights": [
            f"{key} is of {value.dtype}, expected floating-point numbers"
            for key, value in shared.items()
            if not value.is_floating_point()
        ],
    }
    if any(problems.values()):
        raise ValueError(_unfit(problems, len(state_dict), f"{type(network).__name__} of {len(expected)}"))
    for name, table in tables.items():
        difference = (state_dict[name].float() - table.to(state_dict[name].device)).abs().max().item()
        if not difference < TABLE_TOLERANCE:
            raise ValueError(
                f"{name} differs from the fixed table that this network computes, by up to {difference:.3g}: "
                "the checkpoint is of another architecture, or its table was trained"
            )
    ours = {theirs: name for name, theirs in official.renamed.items()}
    network.load_state_dict({ours.get(key, key): value for key, value in state_dict.items() if key not in tables})
