"""Networks: pure modules called as network(z, t, **conditions), which know nothing of k."""

from kdiff.networks.mlp import MLP

__all__ = ["MLP"]
