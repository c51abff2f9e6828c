"""Modules that have moved. Importing one from its old place still works, with a DeprecationWarning that names the new place.

Run folders name classes by path, and exported pipelines and users' scripts import modules by path. One table serves them all.
A module that was split has several new places, which are searched in order. CHANGELOG.md says when old places are removed.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

# Old place: new places, all below `kdiff.`.
_TABLE = {
    "arguments": "commands.arguments config.parts",
    "cli": "commands.main",
    "components": "config.parts run.build",
    "data.folder": "data.image_folder",
    "data.cache": "files.cache files.atomic",
    "data.parts": "data.split",
    "evaluation.command": "commands.evaluate",
    "evaluation.config": "config.sampling config.evaluation",
    "evaluation.measures": "evaluation.image_figures",
    "evaluation.score": "evaluation.image_evaluation",
    "evaluation.shards": "evaluation.image_shards",
    "experiments": "studies",
    "experiments.claim": "claims.claim studies.tables studies.paired",
    "experiments.compare": "studies.comparison studies.tables",
    "experiments.config": "config.studies studies.comparison targets",
    "experiments.estimate": "studies.estimation",
    "experiments.reproduce": "claims.reproduction",
    "experiments.sweep": "studies.sweeps studies.sweep_result",
    "export_command": "commands.export",
    "files": "files.atomic",
    "heap": "run.heap",
    "interop": "published",
    "interop.card": "export.model_card",
    "interop.export": "export.diffusers_folder",
    "interop.pipeline": "export.pipeline",
    "interop.published": "published.models",
    "interop.transformer": "export.diffusers_model",
    "latent_commands": "commands.encode commands.train_autoencoder",
    "networks.linear": "networks.matrix",
    "precision": "path",
    "report.comparison": "report.comparison_picture",
    "report.estimate": "report.estimate_picture",
    "report.judged": "report.evaluation_section",
    "report.latents": "report.reconstructions",
    "report.run": "report.run_pictures",
    "report.samples": "report.drawing data.samples",
    "report.sweep": "report.sweep_picture",
    "report_command": "commands.report",
    "sampling.base": "sampling.walk",
    "sampling.spec": "config.parts",
    "target": "targets",
    "target.base": "targets.target",
    "target.constant": "targets.constant",
    "target.varied": "targets.varied",
    "theory.dimension": "theory.intrinsic_dimension",
    "theory.dynamics": "theory.gradient_flow",
    "theory.linear": "theory.optimum theory.terms",
    "theory.neighbours": "theory.nearest",
    "theory.times": "theory.quadrature",
    "timesteps": "sampling.timesteps",
    "training.autoencoder": "training.small_autoencoder",
    "training.build": "run.build run.environment",
    "training.checkpoint": "run.checkpoint files.tensors",
    "training.config": "config.training config.plain",
    "training.ema": "run.averages",
    "training.encode": "training.encoding latent.autoencoder",
    "training.latent_config": "config.autoencoding",
    "training.plan": "training.cost",
    "training.run": "run.run run.environment run.build training.trainer",
    "weights": "files.weights",
}
# Modules that kept their names when they moved: old room, new room, names.
_KEPT = [
    ("experiments", "claims", "ablation architectures arrangements curves depth dimension dynamics ends evidence"),
    ("experiments", "claims", "latent linear loss_space narrow panels pixel quality stagnation toy"),
    ("experiments", "studies", "paired predictions runner"),
    ("interop", "published", "finetune loss"),
    ("training", "run", "folder generate metrics signals"),
]
_TABLE |= {f"{old}.{name}": f"{new}.{name}" for old, new, names in _KEPT for name in names.split()}
MODULES = {f"kdiff.{old}": [f"kdiff.{new}" for new in places.split()] for old, places in _TABLE.items()}
RENAMED = {"kdiff.components.Component": "Part"}


def attribute(module: str, name: str) -> Any:
    """The object that the old place `module` held under `name`. Raises AttributeError if no new place has it."""
    if name.startswith("__"):  # asked for by the import system, such as __path__
        raise AttributeError(name)
    for place in MODULES[module]:
        found = getattr(importlib.import_module(place), RENAMED.get(f"{module}.{name}", name), None)
        if found is not None:
            if len(MODULES[module]) > 1:
                warnings.warn(f"{name} has moved: import it from {place}", DeprecationWarning, stacklevel=3)
            return found
    raise AttributeError(f"module {module!r} has moved to {' and '.join(MODULES[module])}, which have no {name!r}")


class _Finder:  # not a class of importlib.abc, which imports random before `kdiff.__main__` has put the working folder last
    """Makes modules that look up every name in its new place."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in MODULES:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        places = MODULES[spec.name]
        warnings.warn(f"{spec.name} has moved: import from {' or '.join(places)}", DeprecationWarning, stacklevel=2)
        module = types.ModuleType(spec.name, f"Moved to {' and '.join(places)}.")
        module.__getattr__ = lambda name: attribute(spec.name, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: the module has no code."""


def install() -> None:
    """Make old places importable. Modules that exist are found first."""
    finders: Sequence[Any] = sys.meta_path
    if not any(isinstance(finder, _Finder) for finder in finders):
        sys.meta_path.append(_Finder())
