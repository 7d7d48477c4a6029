"""Scores for those who ask: over HTTP, and as lists (`serving.batch`, which brings Arrow along)."""

from serving.app import create_app
from serving.settings import Settings

__all__ = ["Settings", "create_app"]
