"""The claim `stagnation`: the theory beside the runs, the failure in real networks, and how each part is refuted."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdiff.claims import narrow, stagnation
from kdiff.claims.arrangements import Ended, Room, read_end
from kdiff.claims.claim import Group
from kdiff.claims.narrow import FAST, HIGH, PAPER, Narrow, target
from kdiff.claims.reproduction import reproduce
from kdiff.claims.stagnation import DATA, EMPTY, STRONG, Limited, Settled
from kdiff.config.training import TrainConfig
from kdiff.run.build import build_model, load_dataset
from kdiff.run.run import load_run
from kdiff.theory import rank_limited, whitened
from kdiff.training.trainer import train_run

LIMITED = stagnation.limited_cells(True)


def test_cells_can_be_built_and_are_what_the_theory_speaks_of() -> None:
    for full in (False, True):
        jobs = stagnation.CLAIM.jobs(full, Path("out"))
        for job in {job.cell: job for job in jobs}.values():
            data = load_dataset(job.config)
            model = build_model(job.config, job.target, data.shape, data.num_classes)
            if job.cell in LIMITED:
                assert model.target.min_denominator == 0
                assert job.config.timesteps.name == "uniform"
                assert job.config.loss_space == "v"
                assert data.shape == (LIMITED[job.cell].room.D,)
        assert {job.cell for job in jobs} == set(stagnation.limited_cells(full)) | set(narrow.configs(full))
        assert sum(job.config.steps for job in jobs) <= (30_000 if not full else 700_000)


def test_the_cells_are_of_the_kind_that_their_rule_speaks_of() -> None:
    kinds = {key: [len(one.room.stable()) for one in cells] for key, (_, cells) in stagnation.RULES.items()}
    assert set(kinds["only"]) == set(kinds["escape"]) == {1}
    assert set(kinds["start"]) == set(kinds["scale"]) == set(kinds["pace"]) == {2}
    assert kinds["mixed"] == [3]
    for one in stagnation.RULES["only"][1]:
        assert one.room.captured(one.room.stable()[0]) == 0
    for one in stagnation.RULES["pace"][1]:
        assert one.room.D / len(one.room.variances) > 2.467


def test_a_room_tells_the_theory_again() -> None:
    room = Room(48, [1.0] * 24, 26)
    for one in rank_limited(whitened(48, 24), 26):
        if one.k < 1:
            assert room.loss(one, one.k) == pytest.approx(one.loss)
            assert room.loss(one, one.k + 0.05) > one.loss
    empty, data = room.stable()
    assert (room.captured(empty), room.captured(data)) == (2, 24)
    assert room.loss(data, 1 - 1e-9) == pytest.approx(data.loss)


def test_the_weights_say_what_is_captured(tmp_path) -> None:
    config = TrainConfig(
        data="gaussian(ambient_dim=12, intrinsic_dim=4, num_samples=500)",
        network="LowRankLinear(rank=5)",
        steps=20,
        log_every=5,
        ema=[0.0],
        target=target(*PAPER),
    )
    train_run(config, tmp_path / "run")
    before = read_end(tmp_path / "run", captured=True)
    assert 0 < before.captured < 4
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (before.k, before.half, before.loss) == (lines[-1]["k"], lines[1]["k"], lines[-1]["loss"])
    # A span that holds all data directions and one more.
    run = load_run(tmp_path / "run")
    x = run.dataset().part("train")[0]
    span = torch.linalg.svd(x, full_matrices=True).Vh[:5].T
    run.model.network.span.data = span @ torch.randn(5, 5)
    from kdiff.claims import arrangements

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrangements, "load_run", lambda folder, **_: run)
        assert arrangements.data_captured(tmp_path) == pytest.approx(4, abs=1e-4)


def end(limited: Limited, what: str, k: float | None = None, half: float | None = None, loss: float = 1.0) -> Ended:
    """A run that ended as the theory has it, or beside it by what is given."""
    room, index = limited.room, {EMPTY: 0, STRONG: 1, DATA: -1}[what]
    arrangement = room.stable()[index]
    k = min(arrangement.k, 0.95) if k is None else k
    half = k - 0.001 if half is None and arrangement.k == 1 else k if half is None else half
    return Ended(k, half, loss * room.loss(arrangement, k), room.captured(arrangement) + 0.01)


def test_where_a_run_ended_is_read_by_the_theory() -> None:
    limited = stagnation.RULES["start"][1][0]
    settled = stagnation.settle(limited, EMPTY, end(limited, EMPTY))
    assert (settled.there, settled.right) == (True, True)
    assert stagnation.settle(limited, EMPTY, end(limited, DATA)).right is False
    assert stagnation.settle(limited, DATA, end(limited, DATA)).there, "still rising to 1"
    assert not stagnation.settle(limited, DATA, end(limited, DATA, half=0.951)).there, "falling from it"
    assert not stagnation.settle(limited, EMPTY, end(limited, EMPTY, loss=1.03)).there
    assert not stagnation.settle(limited, EMPTY, end(limited, EMPTY, k=0.53)).there
    between = replace(end(limited, EMPTY), captured=9.0)
    assert not stagnation.settle(limited, EMPTY, between).there
    assert not stagnation.settle(limited, EMPTY, between).right


def test_rules_are_confirmed_refuted_and_doubted() -> None:
    def settled(*right: bool) -> list[Settled]:
        return [Settled(Ended(0.5, 0.5, 1.0, 0.0), 0.5, 1.0, 0, one, one) for one in right]

    at = ("a cell", 0.5, 1.0)
    assert stagnation._rule("s", {at: settled(True, True, True)}, True).verdict == "confirmed"
    assert stagnation._rule("s", {at: settled(True, False, True)}, True).verdict == "inconclusive"
    assert stagnation._rule("s", {at: settled(True, False, False)}, True).verdict == "refuted"
    assert stagnation._rule("s", {at: settled(False)}, False).verdict == "inconclusive", "too short to refute"
    assert stagnation._there({at: settled(False, False, True)}, True).verdict == "refuted"
    assert "a cell from 0.5 at pace 1" in stagnation._there({at: settled(False, True)}, True).evidence


NAMES = [name for name, what in narrow.NETWORKS.items() if what[2]]
WIDE = next(name for name, what in narrow.NETWORKS.items() if not what[2])


def cell(name: str, paper: float, high: float, loss: float, quality: float, moved: float = 0.0) -> Narrow:
    """A real network: k from the paper's start and from 0.95, the former's loss and quality where the latter's are 1."""
    wobble = np.linspace(-0.01, 0.01, 5)
    ends = {
        target(*PAPER): [Ended(paper + w, paper + w - moved, loss) for w in wobble],
        target(*HIGH): [Ended(high + w, high, 1.0) for w in wobble],
        target(*FAST): [Ended(paper + w, paper, loss) for w in wobble],
    }
    figures = {target(*PAPER): quality + wobble, target(*HIGH): 1 + wobble[::-1], target(*FAST): quality + wobble}
    return Narrow(name, ends, {label: list(values) for label, values in figures.items()})


@pytest.mark.parametrize(
    ("runs", "verdicts"),
    [
        (cell(NAMES[0], 0.52, 0.94, 1.2, 1.3), ["confirmed", "confirmed"]),
        (cell(NAMES[0], 0.52, 0.94, 1.2, 1.0), ["confirmed", "inconclusive"]),
        (cell(NAMES[0], 0.52, 0.94, 1.2, 0.8), ["confirmed", "refuted"]),
        (cell(NAMES[0], 0.52, 0.94, 1.01, 1.3), ["refuted"]),
        (cell(NAMES[0], 0.52, 0.6, 1.2, 1.3), ["refuted"]),
        (cell(NAMES[0], 0.8, 0.94, 1.2, 1.3), ["refuted"]),
        (cell(NAMES[0], 0.52, 0.94, 1.2, 1.3, moved=0.03), ["refuted"]),
    ],
    ids=["found and worse", "no worse", "better", "as low", "no further", "left", "moving"],
)
def test_the_failure_is_found_or_not(runs: Narrow, verdicts: list[str]) -> None:
    assert [finding.verdict for finding in narrow.findings([runs], full=True)] == verdicts
    if verdicts == ["refuted"]:
        found = narrow.findings([runs], full=False)
        assert [finding.verdict for finding in found] == ["inconclusive"]
        assert "not found in" in found[0].evidence


def test_a_wide_network_that_fails_too_refutes() -> None:
    fine = [cell(NAMES[0], 0.52, 0.94, 1.2, 1.3), cell(WIDE, 0.9, 0.95, 1.0, 1.0)]
    assert [finding.verdict for finding in narrow.findings(fine, True)] == ["confirmed"] * 3
    failing = [fine[0], cell(WIDE, 0.52, 0.94, 1.2, 1.3)]
    assert narrow.findings(failing, True)[-1].verdict == "refuted"


@pytest.mark.usefixtures("in_this_process")
def test_a_miniature_runs_and_is_drawn(tmp_path) -> None:
    name = stagnation.RULES["start"][1][0].name

    def plan(full: bool) -> list[Group]:
        groups = stagnation.plan(full)
        small = [
            Group(
                {cell: replace(config, steps=20, batch_size=64, log_every=2) for cell, config in group.cells.items()},
                group.targets[:2],
                list(group.seeds)[:2],
                60 if group.num_samples else 0,
                bool(group.num_samples),
            )
            for group in groups
            if name in group.cells or group.num_samples
        ]
        for group in small:
            for cell, config in group.cells.items():
                if cell != name:
                    group.cells[cell] = replace(config, data="gaussian(ambient_dim=6, intrinsic_dim=3, num_samples=200)")
        return small

    outcome = reproduce(replace(stagnation.CLAIM, plan=plan), False, tmp_path / "out", workers=1)
    assert name in outcome.table
    assert "held out" in outcome.table
    # √(3 SW² + off²), up to the three digits of the table.
    line = next(line for line in outcome.table.splitlines() if line.startswith(f"| {NAMES[0]} | 0.5, 1 |"))
    distance, inside, off = (float(re.split(r" [±(]", line.split(" | ")[i].strip(" |"))[0]) for i in (4, 8, 9))
    assert distance == pytest.approx(math.hypot(math.sqrt(3) * inside, off), rel=0.01)
    assert (tmp_path / "out" / "stagnation.png").stat().st_size > 10_000
    assert {finding.verdict for finding in outcome.findings} <= {"confirmed", "inconclusive"}, "20 steps refute nothing"
