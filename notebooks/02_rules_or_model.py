# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Rules or model?
#
# Your own points table against the model, on your own past: how many more buyers the same calls would have reached, and
# what that is in money. Point `DATA` to a folder of your own tables or to a `dataset.toml`, `RULES` to your points
# table; without them, simulated leads and the table of `examples/rules.toml` are used.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd

from features import Dataset
from models import PointsTable, candidates
from training import Experiment, backtest
from training.plots import calibration, gains, lift
from training.simulate import simulate

RULES = os.environ.get("TOUCHSTONE_RULES", "../examples/rules.toml")
rules = PointsTable.read(Path(RULES))
DATA = os.environ.get("TOUCHSTONE_DATA")
if DATA is None:
    DATA = "../build/notebooks/rules_or_model"
    simulate(6_000, 540, seed=11).write(DATA)
dataset = Dataset.read(DATA)
print(*dataset.report.lines(), sep="\n")

# %% [markdown]
# ## What a sale brings, and what a call costs
#
# `CAPACITY` is the share of open leads that sales can call at each origin. The same calls cost the same whoever chooses
# them, so that the cost of a call says whether calling pays, and nothing of the difference.

# %%
CAPACITY = 0.10
AVERAGE_DEAL = 2_000
MARGIN = 0.3
CALL_COST = 30

# %% [markdown]
# ## The replay
#
# At each origin the rules and the models know what was known then, and nothing later. The points of the table are
# turned into probabilities on what was known then too, so that the rules are given every chance. Origins lie a horizon
# apart, so that no purchase is counted twice. The model is the blend, named before looking: the best of several would
# look better than it is.

# %%
experiment = Experiment(horizon_days=60, origin_every_days=60, origins=4, capacity=CAPACITY, bootstrap=200)
competing = [candidate for candidate in candidates(rules) if candidate.name in ("rules", "blend")]
result = backtest(dataset, experiment, competing)
result

# %% [markdown]
# ## The same calls

# %%
gains(result)

# %%
lift(result)

# %% [markdown]
# ## In money
#
# Of all purchases, those among the leads that would have been called. Intervals resample whole leads; the difference is
# paired, both having called from the same leads.

# %%
purchases = int(result.bought.sum())
calls = sum(round(CAPACITY * (result.origin == origin).sum()) for origin in result.origins)
figures = {
    "rules": result.evaluation.estimate("rules", "caught"),
    "model": result.evaluation.estimate("blend", "caught"),
    "model - rules": result.evaluation.difference("blend", "rules", "caught"),
}
caught = pd.DataFrame({who: estimate._asdict() for who, estimate in figures.items()}).T * purchases
income = caught * AVERAGE_DEAL * MARGIN
costs = pd.Series({"rules": calls, "model": calls, "model - rules": 0}) * CALL_COST
money = pd.concat({"buyers reached": caught, "margin less the cost of calls": income.sub(costs, axis=0)}, axis=1)
print(f"{calls:,} calls at {len(result.origins)} origins, {purchases:,} purchases in all")
money.round(0).astype(int)

# %%
more = money.loc["model - rules", "margin less the cost of calls"]
days = experiment.horizon_days * len(result.origins)
verdict = "beyond chance" if more["low"] > 0 else "which may be chance: the interval contains zero"
print(
    f"In {days:.0f} days the model would have brought {more['value']:+,.0f} ({more['low']:+,.0f} to "
    f"{more['high']:+,.0f}) beside the rules with the same calls, {verdict}."
)

# %% [markdown]
# ## The same buyers with fewer calls
#
# How many calls, chosen by the model, reach as many buyers as the rules do with all of theirs.

# %%
line = {entry.get_label(): entry.get_data() for entry in gains(result).axes[0].lines}
shares, reached = line["blend"]
enough = float(np.interp(figures["rules"].value, reached, shares))
print(f"{enough:.1%} of the open leads instead of {CAPACITY:.0%}: {1 - enough / CAPACITY:.0%} of the calls are saved.")

# %% [markdown]
# ## Can the probabilities be believed?

# %%
calibration(result)
