"""Scores of a model: NLL and multiple choice."""
