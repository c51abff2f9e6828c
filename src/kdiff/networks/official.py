"""Published weights in and out: from the state dicts of the official implementations to the networks here, and back.

The networks here use the published names of keys, so a key keeps its name, with three exceptions. Prefixes of wrappers are
removed. U-ViT's table of labels has another name. Fixed tables are computed here: a published table is compared with the
computed one, and then left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdiff.files.weights import Weights, read_weights, unwrapped
from kdiff.networks.correspondence import ARCHITECTURES, Architecture
from kdiff.networks.embedding import LabelEmbedding

# Half precision or a moving average may have changed a table slightly; another layout differs by about 1.
TABLE_TOLERANCE = 0.01
SHOWN = 3  # tensors of each kind in a message


def from_official(architecture: str, weights: Weights, *, entry: str | None = None, **config: Any) -> nn.Module:
    """A network with the weights of an official implementation, in float32.

    The network takes t as the official forward pass does. JiT, SiT and LightningDiT have t = 0 for noise and t = 1 for data, as
    kdiff has. The official DiT counts steps 0 … 999, where 999 is noise, and U-ViT takes 999 t′ or a step 1 … 1000, large for
    noise: to use DiT or U-ViT in a model, wrap the network in a module that converts t.

    Args:
        architecture: "jit", "dit", "sit", "lightningdit" or "uvit".
        weights: a state dict; a training checkpoint, from which the moving average is taken (see `entry`); or the path of
            either: `.safetensors`, or `.pth` and `.pt`, which are read without running code from the file. Prefixes of wrappers
            ("module.", "net.") are removed, and what AveragedModel, ema-pytorch and Lightning put beside the weights.
        entry: the name of the state dict to take from a checkpoint, such as "model_ema2". Default: the moving average ("ema";
            of JiT's two averages "model_ema1"), else "model" or "state_dict".
        config: the arguments of the official constructor, by their official names (`input_size`, `in_channels`, …). An argument
            has its official default if a wrong value would not fit the weights (`mlp_ratio`, `learn_sigma`, …), or if it
            matters in training only (JiT's dropout, `attn_drop` and `proj_drop`). U-ViT counts "no class" among its classes, so
            it also takes `null_class`: False if the last class is an ordinary one (the ImageNet-64 models).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the architecture is unknown; arguments are missing or unknown; the file holds no weights; there are several
            state dicts to choose from; keys are missing, left over or misshapen (the first are named); or a fixed table
            differs from the one computed here.
        TypeError: `weights` is no state dict.
    """
    official = _architecture(architecture)
    given = {**official.defaults, **config}
    missing = [name for name in official.arguments if name not in given]
    unknown = [name for name in given if name not in official.arguments]
    wrong = [f"{what}: {', '.join(names)}; " for what, names in (("missing", missing), ("unknown", unknown)) if names]
    if wrong:
        raise ValueError(f"{''.join(wrong)}{architecture} takes {', '.join(official.arguments)}")
    settings: dict[str, Any] = {}
    for name, value in given.items():
        ours = official.arguments[name]
        settings |= {ours: value} if isinstance(ours, str) else ours(value)
    state = read_weights(weights, entry)
    network = official.network(**settings)
    _load(network, state, official)
    return network


def load_official(architecture: str, network: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Copy the weights of an official implementation into an existing network; `from_official` makes a new network.

    Args:
        architecture: "jit", "dit", "sit", "lightningdit" or "uvit".
        network: a network of that architecture.
        state_dict: the weights by official keys, including fixed tables.

    Raises:
        ValueError: the architecture is unknown, the network has another architecture, or the state dict does not fit, as for
            `from_official`.
    """
    _load(network, state_dict, _architecture_of(network, architecture))


def to_official(architecture: str, network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network by official keys, including fixed tables; `from_official` and the official code can read it.

    The weights are exactly as `from_official` read them, and the tables are as computed here. As with `state_dict`, the tensors
    belong to the network: save or copy them before training continues. The time_scale of U-ViT is not among them: the official
    network with these weights takes time_scale · t.

    Args:
        architecture: "jit", "dit", "sit", "lightningdit" or "uvit".
        network: a network of that architecture, with a table of labels (U-ViT also without labels).

    Raises:
        ValueError: the architecture is unknown, the network has another architecture, or the official network does not know
            its kind of condition.
    """
    official = _architecture_of(network, architecture)
    labels: Any = network.y_embedder
    if not isinstance(labels, LabelEmbedding) and not (labels is None and architecture == "uvit"):
        found = "no classes" if labels is None else f"a {type(labels).__name__} for its condition"
        raise ValueError(
            f"the network has {found}; expected a table of labels: the official {architecture} knows no other condition"
        )
    return {key: value.detach().contiguous() for key, value in _expected(network, official).items()}


def is_official(architecture: str, network: nn.Module) -> bool:
    """Whether a network has this official architecture."""
    return _architecture(architecture).kind(network)


def _architecture(name: str) -> Architecture:
    if name not in ARCHITECTURES:
        raise ValueError(f"no architecture is called {name!r}; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def _architecture_of(network: nn.Module, name: str) -> Architecture:
    if not is_official(name, network):
        raise ValueError(f"{name!r} does not describe this {type(network).__name__}; expected the name of its architecture")
    return ARCHITECTURES[name]


def _expected(network: nn.Module, official: Architecture) -> dict[str, Tensor]:
    """The network's tensors by official key."""
    weights = {official.renamed.get(key, key): value for key, value in network.state_dict().items()}
    return weights | official.tables(network)


def _unfit(problems: Mapping[str, list[str]], found: int, expected: str) -> str:
    """A sentence that says what is wrong with a state dict, and names the first tensors that do not fit."""
    misshapen, others = len(problems["misshapen"]), len(problems["missing"]) + len(problems["left over"])
    hint = "; the network has another size: its depth, widths, patches, channels and classes must be those of the weights"
    kinds = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
        for what, names in problems.items()
        if names
    ]
    fits = f"the state dict of {found} tensors does not fit this configuration, a {expected}: {'; '.join(kinds)}"
    return fits + hint * (misshapen > others)


def _load(network: nn.Module, state_dict: Mapping[str, Tensor], official: Architecture) -> None:
    """Copy the weights; if any key does not fit, raise an error that says so."""
    expected, tables = _expected(network, official), official.tables(network)
    state_dict = unwrapped(state_dict, expected)
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
