"""Between noise and data along the velocity: noise, time grids, solvers, guidance, likelihood. Everything here sees only v."""

from kdiff.sampling.adams import AdamsBashforth
from kdiff.sampling.adaptive import Dopri5
from kdiff.sampling.base import Callback, Solver, Velocity
from kdiff.sampling.guidance import guided_velocity
from kdiff.sampling.interpolation import slerp
from kdiff.sampling.likelihood import bits_per_dim, draw_probes, exact_divergence, hutchinson_divergence, log_likelihood
from kdiff.sampling.multistep import DataMultistep
from kdiff.sampling.noise import draw_noise
from kdiff.sampling.runge_kutta import euler, heun, midpoint, rk4
from kdiff.sampling.solvers import SOLVERS, find_solver
from kdiff.sampling.stochastic import EulerMaruyama
from kdiff.sampling.times import check_times, find_times, karras_times, shifted_times, uniform_times

__all__ = [
    "SOLVERS",
    "AdamsBashforth",
    "Callback",
    "DataMultistep",
    "Dopri5",
    "EulerMaruyama",
    "Solver",
    "Velocity",
    "bits_per_dim",
    "check_times",
    "draw_noise",
    "draw_probes",
    "euler",
    "exact_divergence",
    "find_solver",
    "find_times",
    "guided_velocity",
    "heun",
    "hutchinson_divergence",
    "karras_times",
    "log_likelihood",
    "midpoint",
    "rk4",
    "shifted_times",
    "slerp",
    "uniform_times",
]
