"""Scores for those who ask: lists and HTTP."""

from serving.app import create_app
from serving.batch import ListSummary, score_list
from serving.settings import Settings

__all__ = ["ListSummary", "Settings", "create_app", "score_list"]
