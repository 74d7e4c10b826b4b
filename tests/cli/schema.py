"""What commands write is what docs/cli.schema.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_FILE = Path(__file__).resolve().parents[2] / "docs" / "cli.schema.json"
_DEFINITIONS = json.loads(_FILE.read_text(encoding="utf-8"))["$defs"]


def validated(value: Any, name: str) -> Any:
    """A value that is of this definition of the schema."""
    schema = {"$ref": f"#/$defs/{name}", "$defs": _DEFINITIONS}
    errors = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
        for error in Draft202012Validator(schema).iter_errors(value)
    ]
    assert not errors, errors
    return value
