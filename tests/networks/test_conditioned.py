"""Networks with conditions by name: kinds, "none", grids of fields, and what the network returns."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdiff.config.condition_spec import ConditionSpec
from kdiff.config.training import ModelConfig
from kdiff.networks.conditioned import ConditionedNetwork, TokenEmbedding, VectorEmbedding
from kdiff.run.build import build_model

Y = 3  # classes
SPECS = (
    ConditionSpec("params", "vector", (2,)),
    ConditionSpec("past", "field", (2, 8, 8)),
    ConditionSpec("coarse", "field", (1, 4, 4)),
    ConditionSpec("words", "tokens", (5, 6)),
    ConditionSpec("kind", "class", (), 4),
)
SMALL = "patch_size=4, hidden_size=16, depth=2, num_heads=2"
NETWORKS = {
    "MLP": "MLP(width=16, depth=2)",
    "JiT": f"JiT({SMALL}, context_start=1, context_tokens=2)",
    "DiT": f"DiT({SMALL})",
    "LightningDiT": f"LightningDiT({SMALL})",
    "U-ViT": f"UViT({SMALL})",
}


def network_of(name: str, specs: tuple[ConditionSpec, ...] = SPECS, shape: tuple[int, ...] = (3, 8, 8)) -> ConditionedNetwork:
    network = build_model(ModelConfig(network=NETWORKS[name]), "velocity", shape, Y, conditions=specs).network
    assert isinstance(network, ConditionedNetwork)
    return network.eval()


def values_of(batch: int, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {"y": torch.randint(Y, (batch,), generator=draw)}
    for spec in SPECS:
        drawn = torch.randn(batch, *spec.shape, generator=draw)
        found[spec.name] = torch.randint(4, (batch,), generator=draw) if spec.kind == "class" else drawn
    return found


def nulls(values: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    known = {"y": Y, "kind": 4}
    return values | {name: torch.full_like(values[name], known.get(name, float("nan"))) for name in names}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_every_kind_and_each_condition_changes_the_output(
    name: str, stirred: Callable[[nn.Module], nn.Module]
) -> None:
    network = stirred(network_of(name))
    z, t, values = torch.randn(2, 3, 8, 8), torch.rand(2), values_of(2)
    u = network(z, t, **values)
    assert u.shape == z.shape
    assert u.isfinite().all()
    for each in values:
        other = values | {each: (values[each] + 1) % 3 if values[each].dtype == torch.int64 else values[each] + 1}
        assert not torch.allclose(network(z, t, **other), u, atol=1e-6), each


@pytest.mark.parametrize("name", NETWORKS)
def test_none_is_the_same_as_a_condition_that_is_left_out(name: str, stirred: Callable[[nn.Module], nn.Module]) -> None:
    network = stirred(network_of(name))
    z, t, values = torch.randn(2, 3, 8, 8), torch.rand(2), values_of(2)
    for each in values:
        left = {key: value for key, value in values.items() if key != each}
        assert torch.equal(network(z, t, **nulls(values, each)), network(z, t, **left)), each
        assert not torch.allclose(network(z, t, **left), network(z, t, **values), atol=1e-6), each
    assert torch.equal(network(z, t, **nulls(values, *values)), network(z, t))


def test_each_sample_has_its_own_none(stirred: Callable[[nn.Module], nn.Module]) -> None:
    network = stirred(network_of("DiT"))
    z, t, values = torch.randn(3, 3, 8, 8), torch.rand(3), values_of(3)
    hidden = nulls(values, *values)
    mixed = {key: torch.cat([values[key][:1], hidden[key][1:2], values[key][2:]]) for key in values}
    u, known, none = network(z, t, **mixed), network(z, t, **values), network(z, t)
    torch.testing.assert_close(u, torch.stack([known[0], none[1], known[2]]), rtol=0, atol=1e-5)


def test_gradients_are_finite_with_none_in_the_batch() -> None:
    network = network_of("JiT").train()
    values = values_of(4)
    hidden = nulls(values, *values)
    mixed = {key: torch.cat([values[key][:2], hidden[key][2:]]) for key in values}
    network(torch.randn(4, 3, 8, 8), torch.rand(4), **mixed).square().sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_a_field_of_the_same_grid_is_put_beside_the_samples_with_a_channel_for_what_is_known() -> None:
    seen: list[Tensor] = []

    class Seen(nn.Module):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            seen.append(z)
            return z

    shapes: list[tuple[int, ...]] = []

    def build(shape: tuple[int, ...], condition: nn.Module | None) -> nn.Module:
        assert condition is None
        shapes.append(shape)
        return Seen()

    network = ConditionedNetwork(build, (1, 4), (ConditionSpec("past", "field", (2, 4)),), 8)
    past = torch.tensor([[[1.0, 2, 3, 4], [5, 6, float("nan"), 8]], [[9.0, 9, 9, 9], [9, 9, 9, 9]]])
    z = torch.zeros(2, 1, 4)
    u = network(z, torch.rand(2), past=past)
    assert shapes == [(4, 4)]
    assert u.shape == (2, 1, 4)
    assert seen[0][0].tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 0, 8], [1, 1, 0, 1]]


def test_a_field_of_another_grid_is_interpolated_around_what_is_missing() -> None:
    spec = ConditionSpec("coarse", "field", (1, 2, 2))
    z = torch.zeros(1, 1, 4, 4)
    value, known = ConditionedNetwork._channels(spec, torch.tensor([[[[3.0, float("nan")], [3, 3]]]]), z)
    assert value.shape == known.shape == (1, 1, 4, 4)
    # Wherever anything is known, the value is that of the known entries, and not drawn towards 0.
    torch.testing.assert_close(value[known > 0], torch.full_like(value[known > 0], 3.0))
    assert known[0, 0, 0].tolist() == [1.0, 0.75, 0.25, 0.0]
    assert known[0, 0, -1].tolist() == [1.0] * 4
    ramp = torch.arange(4.0).expand(4, 4)[None, None]
    finer, _ = ConditionedNetwork._channels(ConditionSpec("past", "field", (1, 4, 4)), ramp, torch.zeros(1, 1, 8, 8))
    torch.testing.assert_close(finer[0, 0, 3, 1:-1], torch.linspace(0.25, 2.75, 6))


def test_the_network_says_what_it_does_to_conditions() -> None:
    assert network_of("DiT").notes == ["the field coarse is interpolated from 4 × 4 to the samples' 8 × 8"]
    vectors = network_of("MLP", (ConditionSpec("past", "field", (2, 3, 3)),), (5,))
    assert vectors.notes == ["the field past is read as a vector of 18 numbers"]
    assert vectors(torch.randn(2, 5), torch.rand(2), past=torch.randn(2, 2, 3, 3)).shape == (2, 5)


def test_embeddings_start_small() -> None:
    torch.manual_seed(0)
    vectors, tokens = VectorEmbedding(3, 64), TokenEmbedding(4, 3, 64)
    assert vectors(torch.randn(100, 3), 100).std() < 0.2
    assert vectors(None, 2).std() < 0.05
    assert tokens(None, 2).shape == (2, 4, 64)


def test_wrong_conditions_are_refused() -> None:
    network = network_of("MLP")
    z, t, values = torch.randn(2, 3, 8, 8), torch.rand(2), values_of(2)
    with pytest.raises(ValueError, match=r"no condition 'force'; its conditions are y, params, past, coarse, words, kind"):
        network(z, t, force=torch.zeros(2))
    with pytest.raises(ValueError, match=r"'params' has shape \(2, 3\); expected \(2, 2\)"):
        network(z, t, **(values | {"params": torch.zeros(2, 3)}))
    with pytest.raises(ValueError, match=r"'past' is a field on 5, but the samples have the grid 8 × 8"):
        network_of("MLP", (ConditionSpec("past", "field", (1, 5)),))


def test_conditions_are_refused_by_networks_that_take_none_and_by_names_with_another_meaning() -> None:
    params = ConditionSpec("params", "vector", (2,))
    with pytest.raises(ValueError, match="Linear takes no conditions; the data have params"):
        build_model(ModelConfig(network="Linear"), "velocity", (4,), 0, conditions=[params])
    for name in ("seed", "t", "steps", "two words"):
        with pytest.raises(ValueError, match=rf"called '{name}', which is the name of an option"):
            build_model(ModelConfig(), "velocity", (4,), 0, conditions=[ConditionSpec(name, "vector", (2,))])


OWN = """
import torch
from torch import nn

class Takes(nn.Module):
    def __init__(self, shape, num_classes, conditions):
        super().__init__()
        self.layer, self.specs = nn.Linear(shape[0] + 2, shape[0]), conditions
    def forward(self, z, t, y=None, params=None):
        return self.layer(torch.cat([z, torch.zeros(len(z), 2) if params is None else params.nan_to_num()], 1))

class Lacks(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = nn.Linear(shape[0], shape[0])
    def forward(self, z, t, y=None):
        return self.layer(z)
"""


def test_a_users_network_gets_conditions_by_name(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_conditioned.py").write_text(OWN)  # type: ignore[operator]
    monkeypatch.syspath_prepend(tmp_path)
    params = ConditionSpec("params", "vector", (2,))
    model = build_model(ModelConfig(network="own_conditioned.Takes"), "velocity", (4,), Y, conditions=[params])
    assert model.network.specs == (params,)  # type: ignore[comparison-overlap]
    model.loss(torch.randn(8, 4), y=torch.randint(Y, (8,)), params=torch.randn(8, 2)).backward()
    with pytest.raises(
        ValueError, match=r"forward\(z, t, y\), which lacks params; expected forward\(z, t, y=None, params=None"
    ):
        build_model(ModelConfig(network="own_conditioned.Lacks"), "velocity", (4,), Y, conditions=[params])


def test_labels_alone_make_the_network_of_before() -> None:
    """The same class, names and weights as the network that is built directly with the classes."""
    from kdiff.networks import MLP, JiT
    from kdiff.sampling.noise import mix_seed

    for text, make in (
        (NETWORKS["MLP"], lambda: MLP((3, 8, 8), Y, width=16, depth=2)),
        (NETWORKS["JiT"], lambda: JiT(8, 4, 3, Y, 16, 2, 2, context_start=1, context_tokens=2)),
    ):
        built = build_model(ModelConfig(network=text), "velocity", (3, 8, 8), Y, seed=5).network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix_seed(5))
            direct = make()
        assert type(built) is type(direct)
        assert list(built.state_dict()) == list(direct.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(built.state_dict().values(), direct.state_dict().values()))


def test_a_copy_is_independent_and_weights_have_one_name() -> None:
    network = network_of("DiT")
    assert len({id(p) for p in network.parameters()}) == len(network.state_dict())
    other = copy.deepcopy(network)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert not torch.equal(next(other.parameters()), next(network.parameters()))
    other.checkpointing = True
    assert other.network.checkpointing is True
    assert network.checkpointing is False
    assert network.grid == (2, 2)
