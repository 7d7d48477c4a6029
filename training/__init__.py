"""From what is known to a model that is proved on the past."""

from training.backtest import Backtest, backtest
from training.experiment import Experiment
from training.train import Trained, train

__all__ = ["Backtest", "Experiment", "Trained", "backtest", "train"]
