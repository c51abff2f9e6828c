"""From noise to data along the velocity: noise, time grids, solvers, guidance. Everything here sees only v."""

from kdiff.sampling.guidance import classifier_free
from kdiff.sampling.noise import draw_noise
from kdiff.sampling.solvers import SOLVERS, Solver, euler, find_solver, heun
from kdiff.sampling.times import check_times, uniform_times

__all__ = [
    "SOLVERS",
    "Solver",
    "check_times",
    "classifier_free",
    "draw_noise",
    "euler",
    "find_solver",
    "heun",
    "uniform_times",
]
