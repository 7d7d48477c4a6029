"""What a model is; the language training and serving share."""

from models.bundle import load_bundle, save_bundle
from models.candidates import MODELS, candidates
from models.model import Candidate, Model, Recipe
from models.rules import PointsTable
from models.scorer import Card, Scorer, Scores
from models.tiers import TIERS, Outlook, Team, Tiers

__all__ = [
    "MODELS",
    "TIERS",
    "Candidate",
    "Card",
    "Model",
    "Outlook",
    "PointsTable",
    "Recipe",
    "Scorer",
    "Scores",
    "Team",
    "Tiers",
    "candidates",
    "load_bundle",
    "save_bundle",
]
