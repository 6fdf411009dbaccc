# The compiled core. `Machine` is its typed face; nothing else uses it.
from typing import Any

def __getattr__(name: str) -> Any: ...
