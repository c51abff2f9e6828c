"""What can be trained: lazily shaped and complex weights like any others; what could not be saved and read back is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from kdiff import KDiff
from kdiff.commands.main import main
from kdiff.config.training import LoopConfig, TrainConfig
from kdiff.data import load
from kdiff.export.diffusers_folder import export
from kdiff.files.tensors import load_tensors
from kdiff.run.build import build_model
from kdiff.run.run import Run, load_run
from kdiff.training.loop import fit
from kdiff.training.objective import ClassificationObjective, DiffusionObjective
from kdiff.training.optimiser import check_trainable, make_optimizer
from kdiff.training.trainer import train_run

NETWORKS = '''
import torch
from torch import nn

class Lazy(nn.Module):
    """Layers that learn their widths from the first call, one with buffers."""

    def __init__(self, shape, unused=False):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.SiLU(), nn.Linear(8, 2))
        self.extra = nn.LazyLinear(3) if unused else None

    def forward(self, z, t, y=None):
        return self.layers(torch.cat([z, t[:, None]], 1))

class Complex(nn.Module):
    def __init__(self, shape, dtype="complex64"):
        super().__init__()
        self.first = nn.Parameter(torch.randn(3, 8, dtype=getattr(torch, dtype)))
        self.phase = nn.Parameter(torch.zeros(8, dtype=getattr(torch, dtype)))
        self.last = nn.Parameter(torch.randn(8, 2, dtype=getattr(torch, dtype)) / 4)

    def forward(self, z, t, y=None):
        h = torch.cat([z, t[:, None]], 1).to(self.first.dtype) @ self.first + self.phase
        return ((h / (1 + h.abs())) @ self.last).real.to(z.dtype)

class LazyBuffers(Lazy):
    """Buffers alone have no shape."""

    def __init__(self, shape, unused=False):
        super().__init__(shape)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.LazyBatchNorm1d(affine=False), nn.SiLU(), nn.Linear(8, 2))
        self.extra = nn.LazyBatchNorm1d(affine=False) if unused else None

class Sparse(nn.Module):
    """A table whose gradients are sparse: made so by the layer, by the layer of bags, or only by the call."""

    def __init__(self, shape, kind="Embedding", trained=True):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.table = nn.Embedding(3, 2) if kind == "call" else getattr(nn, kind)(3, 2, sparse=True)
        self.table.weight.requires_grad_(trained)

    def forward(self, z, t, y=None):
        y = torch.full((len(z),), 2) if y is None else y
        if type(self.table) is nn.EmbeddingBag:
            return self.layer(z) + self.table(y[:, None])
        return self.layer(z) + nn.functional.embedding(y, self.table.weight, sparse=True)

class Stored(nn.Module):
    """A sparse entry: a parameter, a buffer that is saved, or one that is not."""

    def __init__(self, shape, kind):
        super().__init__()
        self.layer, value = nn.Linear(2, 2), torch.eye(2).to_sparse()
        if kind == "parameter":
            self.mix = nn.Parameter(value)
        else:
            self.register_buffer("mix", value, persistent=kind == "buffer")

    def forward(self, z, t, y=None):
        return torch.sparse.mm(self.mix, self.layer(z).T).T

class Plain(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, z, t, y=None):
        self.change()
        return self.layer(z)

    def change(self):
        pass

class LateBuffer(Plain):
    def change(self):
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.ones(()))

class LateLayer(Plain):
    def change(self):
        if not hasattr(self, "more"):
            self.more = nn.Linear(2, 2)

class NewParameter(Plain):
    def change(self):
        self.layer.weight = nn.Parameter(self.layer.weight.detach().clone())

class Growing(Plain):
    def __init__(self, shape):
        super().__init__(shape)
        self.register_buffer("seen", torch.zeros(0))

    def change(self):
        self.seen = torch.cat([self.seen, torch.ones(1)])

class LateInTraining(LateBuffer):
    def change(self):
        if self.training:
            super().change()

class Late(Plain):
    """Makes or changes an entry in one call in training."""

    def __init__(self, shape, kind, at=6):
        super().__init__(shape)
        self.kind, self.at, self.calls = kind, at, 0
        self.register_buffer("seen", torch.zeros(1))

    def change(self):
        self.calls += self.training
        if self.calls == self.at and self.training:
            if self.kind == "buffer":
                self.register_buffer("late", torch.ones(1))
            elif self.kind == "layer":
                self.late = nn.Linear(2, 2)
            elif self.kind == "shape":
                self.seen = torch.zeros(2)
            else:
                del self.seen

class Extra(Plain):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass

class Broken(Plain):
    def change(self):
        if self.training:
            raise RuntimeError("a mistake that shows only in training")
'''
CONFIG = TrainConfig(
    data="spiral(num_samples=100)",
    network="kdiff_test_odd.Plain",
    steps=8,
    batch_size=8,
    warmup=0,
    ema=[0.5],
    log_every=4,
    checkpoint_every=4,
    keep=0,
    split_loss=False,
)


@pytest.fixture(autouse=True)
def _networks(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "kdiff_test_odd.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("kdiff_test_odd", None)


def named(network: str, **changes) -> TrainConfig:
    return replace(CONFIG, network=f"kdiff_test_odd.{network}", **changes)


@pytest.mark.parametrize("network", ["Lazy", "LazyBuffers", "Complex"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_lazy_and_complex_weights_train_resume_and_are_read_back(tmp_path, contents, network, optimizer):
    config = named(network, optimizer=optimizer, weight_decay=0.01)
    whole = train_run(config, tmp_path / "whole")
    start = build_model(config, config.target, (2,), 2, config.seed).network.state_dict()
    again = build_model(config, config.target, (2,), 2, config.seed).network.state_dict()
    saved = load_tensors(tmp_path / "whole" / "checkpoints" / "step_00000008" / "ema_0.5.safetensors")
    for name, value in whole.model.network.state_dict().items():
        assert torch.equal(start[name], again[name]), "the same seed, the same weights"
        assert torch.equal(value.cpu(), saved[f"network.{name}"])
        assert saved[f"network.{name}"].dtype == start[name].dtype
        assert value.ndim < 2 or not torch.equal(value.cpu(), start[name])
    assert all(torch.isfinite(row["gradient_norm"] * torch.ones(())) for row in whole.metrics())
    train_run(replace(config, steps=4), tmp_path / "cut")
    (tmp_path / "cut" / "metrics.jsonl").write_text((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    train_run(config, tmp_path / "cut", resume=True)
    last = "checkpoints/step_00000008"
    mine, theirs = contents(tmp_path / "whole" / last), contents(tmp_path / "cut" / last)
    assert all(mine[name] == theirs[name] for name in mine if name.endswith(".safetensors"))
    x, _ = load_run(tmp_path / "cut", ema="none").sample(5, steps=3)
    assert x.isfinite().all()
    assert x.dtype == torch.float32


@pytest.mark.parametrize(("network", "message"), [("Lazy", "has lazily shaped layers"), ("Complex", r"first is complex")])
def test_what_diffusers_could_not_load_is_not_exported(tmp_path, network, message):
    config, dataset = named(network), load("spiral(num_samples=100)")
    model = build_model(config, config.target, dataset.shape, dataset.num_classes)
    run = Run(tmp_path / "run", config, {**dataset.describe(), "class_counts": None}, model, 0, "raw")
    with pytest.raises(ValueError, match=message):
        export(run, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_the_first_step_of_complex_weights_goes_down_the_gradient():
    """A step of plain descent, by finite differences of the loss, in both parts of a weight."""
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(3, dtype=torch.complex64))

    class Toy(ClassificationObjective):
        def parameter_groups(self, lr, weight_decay):
            return [{"name": "network", "params": [w], "lr": lr, "weight_decay": weight_decay}]

    optimizer = make_optimizer(Toy(nn.Identity()), LoopConfig(optimizer="sgd", learning_rate=0.01))
    before = w.detach().clone()

    def loss(value):
        return (value.real**2 + 3 * value.imag).sum()

    loss(w).backward()
    optimizer.step()
    torch.testing.assert_close(w.detach(), before - 0.01 * torch.complex(2 * before.real, torch.full((3,), 3.0)))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("Complex(dtype=complex128)", "is of type complex128, which safetensors files cannot hold; expected .* complex64"),
        ("Extra", r"network\._extra_state of the model is of type dict, which safetensors files cannot hold"),
        ("LateBuffer", r"network\.scale: the model made these entries or changed their shapes when it was called"),
        ("LateLayer", r"network\.more\.weight, network\.more\.bias: the model made these entries .* Make all .* in __init__"),
        ("NewParameter", r"network\.layer\.weight: the model made these entries"),
        ("Growing", r"network\.seen: the model made these entries or changed their shapes"),
        ("Lazy(unused=true)", r"extra\.weight has no shape, because the network does not use that layer"),
        ("LazyBuffers(unused=true)", r"extra\.running_mean has no shape, because the network does not use that layer"),
        ("Sparse", r"network\.table\.weight has sparse gradients, .*; expected dense gradients\. .* sparse=False"),
        ("Stored(parameter)", r"network\.mix is stored as sparse_coo, which checkpoints cannot hold; expected a dense tensor"),
        ("Stored(buffer)", r"network\.mix is stored as sparse_coo, .* not saved, as in register_buffer\(…, persistent=False\)"),
        ("Sparse(kind=EmbeddingBag)", r"network\.table\.weight has sparse gradients"),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_anything_is_written(tmp_path, network, message):
    with pytest.raises(ValueError, match=message):
        train_run(named(network), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("network", "code"), [("LateInTraining", 2), ("Broken", 1)])
def test_a_run_whose_first_step_fails_does_not_block_its_folder(tmp_path, capsys, network, code):
    folder = tmp_path / "run"
    argv = ["train", "--data", "spiral(num_samples=100)", "--steps", "4", "--batch-size", "8", "--out", str(folder)]
    assert main([*argv, "--network", f"kdiff_test_odd.{network}", "--target", "0.3"]) == code
    assert "in its first step" in capsys.readouterr().err or network == "Broken"
    assert main([*argv, "--network", "kdiff_test_odd.Plain"]) == 0, "other settings, without --resume"
    assert json.loads((folder / "target.json").read_text())["scalars"] == {"k": pytest.approx(0.9)}
    assert "resumed" not in json.loads((folder / "environment.json").read_text())
    assert main([*argv, "--network", "kdiff_test_odd.Plain"]) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "names"), [("buffer", "late"), ("layer", "late.*"), ("shape", "seen"), ("removed", "seen")])
def test_entries_made_later_in_training_stop_the_run_before_its_checkpoint(tmp_path, kind, names):
    with pytest.raises(ValueError, match=rf"^network\.{names}: the model made these entries or .* in training, so a run"):
        train_run(named(f"Late({kind})"), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000004"]
    assert load_run(tmp_path / "run").step == 4


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_gradients_that_only_a_call_makes_sparse_are_refused_in_the_first_step(tmp_path, optimizer):
    with pytest.raises(ValueError, match=r"table\.weight has sparse gradients, .* sparse=False"):
        train_run(named("Sparse(kind=call)", optimizer=optimizer), tmp_path / "run")
    train_run(named("Sparse(trained=false)", optimizer=optimizer, steps=1), tmp_path / "run")  # the folder is free
    train_run(named("Stored(kind=constant)", optimizer=optimizer, steps=1), tmp_path / "other")


def test_a_lazy_network_in_a_loop_of_ones_own(samples):
    model = KDiff(nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"no shape yet; call model\.loss\(x, …\) once, then make the optimiser"):
        model.parameter_groups(1e-3)
    with pytest.raises(ValueError, match=r"network\.weight has no shape yet; call the module once before it is trained"):
        fit(DiffusionObjective(model), *samples, LoopConfig(steps=1, batch_size=4))


class Sharded(nn.Module):
    """As `fully_shard` leaves a module: it can be put together and taken apart."""

    def unshard(self) -> None: ...

    def reshard(self) -> None: ...


class FullyShardedDataParallel(nn.Module):
    """The name is what the check knows it by."""


@pytest.mark.parametrize("mark", ["device_mesh", "_is_flat_param", "ds_id"])
@pytest.mark.parametrize("buffer", [False, True])
def test_sharded_entries_are_refused(mark, buffer):
    module = nn.BatchNorm1d(3)
    setattr(module.running_mean if buffer else module.weight, mark, True)
    with pytest.raises(
        ValueError, match=r"(weight|running_mean) is sharded over processes, but kdiff trains whole models only"
    ):
        check_trainable(module)


@pytest.mark.parametrize("kind", [Sharded, FullyShardedDataParallel])
def test_sharded_modules_are_refused_by_fit(samples, tmp_path, kind):
    model = KDiff(nn.Sequential(kind(), nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=rf"{kind.__name__} is sharded over processes, .* keep your own loop"):
        fit(DiffusionObjective(model), *samples, LoopConfig(steps=1, batch_size=4), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_torchs_own_sharding_is_refused(samples):
    """In this process alone, without others to share with."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = KDiff(nn.Linear(4, 4))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="is sharded over processes"):
            check_trainable(model)
    finally:
        dist.destroy_process_group()
