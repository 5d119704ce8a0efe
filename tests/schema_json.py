"""Writes gateway/schema.json anew: `python -m tests.schema_json`."""

import json
from pathlib import Path

from gateway import schema

Path(schema.__file__).with_name("schema.json").write_text(json.dumps(schema.json_schema(), indent=2) + "\n")
