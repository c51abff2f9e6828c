"""Sampling along the velocity v, from noise to data: noise, time grids, solvers, guidance, likelihood. Nothing here uses k."""

from kdiff.sampling.adams import AdamsBashforth
from kdiff.sampling.adaptive import Dopri5
from kdiff.sampling.flow import Flow
from kdiff.sampling.guidance import guided_velocity
from kdiff.sampling.interpolation import slerp
from kdiff.sampling.likelihood import bits_per_dim, draw_probes, exact_divergence, hutchinson_divergence, log_likelihood
from kdiff.sampling.multistep import DataMultistep
from kdiff.sampling.noise import draw_noise
from kdiff.sampling.runge_kutta import euler, heun, midpoint, rk4
from kdiff.sampling.solvers import SOLVERS, find_solver
from kdiff.sampling.stochastic import EulerMaruyama
from kdiff.sampling.times import check_times, find_times, karras_times, shifted_times, uniform_times
from kdiff.sampling.timesteps import LogitNormal, Timesteps, Uniform, find_timesteps
from kdiff.sampling.walk import Callback, Solver, Velocity

__all__ = [
    "SOLVERS",
    "AdamsBashforth",
    "Callback",
    "DataMultistep",
    "Dopri5",
    "EulerMaruyama",
    "Flow",
    "LogitNormal",
    "Solver",
    "Timesteps",
    "Uniform",
    "Velocity",
    "bits_per_dim",
    "check_times",
    "draw_noise",
    "draw_probes",
    "euler",
    "exact_divergence",
    "find_solver",
    "find_times",
    "find_timesteps",
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
