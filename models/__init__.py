"""What a model is; the language training and serving share."""

from models.bundle import load_bundle, save_bundle
from models.candidates import MODELS, candidates
from models.changes import Changes, changes
from models.forecast import Forecast, forecast
from models.model import Candidate, Model, Recipe
from models.rules import PointsTable
from models.scorer import Card, Scorer, Scores
from models.settings import ModelSettings
from models.tiers import TIERS, Outlook, Team, Tiers
from models.timeline import Event, timeline

__all__ = [
    "MODELS",
    "TIERS",
    "Candidate",
    "Card",
    "Changes",
    "Event",
    "Forecast",
    "Model",
    "ModelSettings",
    "Outlook",
    "PointsTable",
    "Recipe",
    "Scorer",
    "Scores",
    "Team",
    "Tiers",
    "candidates",
    "changes",
    "forecast",
    "load_bundle",
    "save_bundle",
    "timeline",
]
