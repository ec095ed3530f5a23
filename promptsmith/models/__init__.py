"""Models by name, and what stands around them."""

from .lookup import ENTRY_POINTS, check_model_name, find_model, model_names
from .protocol import Model

__all__ = ["ENTRY_POINTS", "Model", "check_model_name", "find_model", "model_names"]
