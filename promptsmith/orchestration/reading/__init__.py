"""Plans from text: YAML by a person, JSON or XML by a conductor, all checked the same way; and back to YAML."""

from .known import Form, Known
from .plans import load_plan, read_plan
from .schema import plan_schema
from .writing import plan_yaml, without_places

__all__ = ["Form", "Known", "load_plan", "plan_schema", "plan_yaml", "read_plan", "without_places"]
