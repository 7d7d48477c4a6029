# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Retrain
#
# What `touchstone train` does, step by step: read the tables, replay the past, look at the evidence, register the
# model, score a list. Point `DATA` to a folder of your own tables or to a `dataset.toml`; without one, simulated leads
# are used, whose true probabilities are known.

# %%
import os
from pathlib import Path

import pandas as pd

from features import Cohort, Dataset
from training import Experiment, train
from training.metrics import information_captured
from training.plots import by_origin, calibration, contributions, gains, lift
from training.simulate import simulate

# The tracking store and the models of this notebook stay in a folder of their own.
work = Path("../build/notebooks").resolve()
work.mkdir(parents=True, exist_ok=True)
os.chdir(work)
os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")

DATA = os.environ.get("TOUCHSTONE_DATA")
if DATA is None:
    simulate(6_000, 540, seed=7).write("leads")

# %% [markdown]
# ## The data
#
# Reading checks every value and tells what it found. `known_at` is the only way into the past.

# %%
dataset = Dataset.read(DATA or "leads")
print(*dataset.report.lines(), sep="\n")

# %% [markdown]
# ## Train, and replay the past
#
# At each origin every model learns from what was known then, scores every open lead, and is compared with what then
# happened. Intervals resample whole leads.

# %%
experiment = Experiment(horizon_days=90, origins=4, bootstrap=200)
trained = train(dataset, experiment)
# Where nothing can be judged yet the rules are registered, and there is nothing to draw.
assert trained.backtest.judged, trained.notes
trained

# %% [markdown]
# ## What the same calls would have caught

# %%
gains(trained.backtest)

# %%
lift(trained.backtest)

# %% [markdown]
# ## Do the probabilities come true?

# %%
calibration(trained.backtest)

# %% [markdown]
# ## Does it hold from origin to origin?
#
# `trained.backtest.table()` and `.table_by_origin()` are the figures as data frames.

# %%
by_origin(trained.backtest, "log_loss", ["rules", "logistic", "lightgbm", "blend"])

# %%
trained.backtest.table_by_origin()["auc"].unstack().round(3)

# %% [markdown]
# ## The model
#
# It is version `card.version` of `touchstone` in MLflow, with the alias challenger (the first one is champion too), and
# a bundle in `trained.folder` that `touchstone score` and `touchstone serve` take.

# %%
card = trained.scorer.card
print(f"{card.model}, version {card.version}, {len(trained.scorer.features.names)} features, in {trained.folder}")

# %% [markdown]
# ## What the scores are made up of
#
# SHAP values of the open leads, summed by what columns tell of: each kind of touch, all touches together, each
# attribute, the age. With the base they add up to the log-odds; reasons beside a score are found in another way.

# %%
contributions(trained.contributed)

# %%
trained.contributed

# %% [markdown]
# ## Score the open leads
#
# A score is a function of history, as_of and model: the same numbers come from the list and from the endpoint.

# %%
cohort = dataset.open_at(dataset.recorded_until)
scores = trained.scorer.score(dataset, cohort)
scored = pd.DataFrame(
    {
        "lead_id": dataset.ids[cohort.lead],
        "probability": scores.probability,
        "score": scores.score,
        "tier": scores.tiers,
    }
).set_index("lead_id")
scored.nlargest(10, "probability")

# %% [markdown]
# ## Is it true?
#
# Only simulated leads can tell: the share of what can be known that the model knows, and its mean over the true mean.

# %%
if DATA is None:
    truth = pd.read_parquet("leads/truth.parquet")
    truth = truth[truth["as_of"] == truth["as_of"].max()]
    rows_of = Cohort.at(dataset.find(truth["lead_id"]), truth["as_of"].iloc[0].to_pydatetime())
    predicted = trained.scorer.predict(dataset, rows_of)
    known = information_captured(truth["probability"].to_numpy(), predicted)
    print(f"information captured {known:.3f}, mean over truth {predicted.mean() / truth['probability'].mean():.3f}")
