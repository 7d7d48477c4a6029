"""From what is known to a model that is proved on the past."""

from training.audit import Finding, audit
from training.backtest import Backtest, backtest
from training.experiment import Experiment
from training.monitor import Monitoring, monitor
from training.search import Search, search
from training.train import Trained, train

__all__ = [
    "Backtest",
    "Experiment",
    "Finding",
    "Monitoring",
    "Search",
    "Trained",
    "audit",
    "backtest",
    "monitor",
    "search",
    "train",
]
