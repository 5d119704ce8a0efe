"""Writes what other languages share with Python anew: `python -m tests.schema_json`.

gateway/schema.json, openapi.json and asyncapi.json are for everybody; gateway/js/producer/vocabulary.js for the kit in
JavaScript.
"""

import json
from pathlib import Path

from gateway import schema
from gateway.producer import core, errors, outbox, text
from tests.openapi import asyncapi, openapi

PACKAGE = Path(schema.__file__).parent


def vocabulary() -> str:
    """The words and tables that both kits have, as an ES module."""
    words = {
        "TYPES": {name: getattr(schema, name) for name in ("STARTED", "PROGRESS", "CONFLICT", "COMPLETED", "FAILED")},
        "REQUIRED": {type: rules["required"] for type, rules in schema.DATA.items()},
        "ERROR_CODES": schema.ERROR_CODES,
        "RULES": [
            {name: value for name, value in rule._asdict().items() if value or name == "says"} for rule in errors.RULES
        ],
        "ID_MAX_LENGTH": schema.ID_MAX_LENGTH,
        "ROOM": core.ROOM,
        "SIZES": core.SIZES,
        "STOPPED": core.STOPPED,
        "MIN_POINTS": core.MIN_POINTS,
        "MIN_SECONDS": core.MIN_SECONDS,
        "BATCH": outbox.BATCH,
        "CHAIN_MAX": errors.CHAIN_MAX,
        "DEPTH_MAX": text.DEPTH_MAX,
        "TEXT_MAX": text.TEXT_MAX,
        "LIST_MAX": text.LIST_MAX,
    }
    lines = [f"export const {name} = {json.dumps(value, indent=2)};\n" for name, value in words.items()]
    return "// Made from gateway/schema.py and gateway/producer by `python -m tests.schema_json`.\n" + "".join(lines)


FILES = {
    PACKAGE / "schema.json": lambda: json.dumps(schema.json_schema(), indent=2) + "\n",
    PACKAGE / "openapi.json": lambda: json.dumps(openapi(), indent=2) + "\n",
    PACKAGE / "asyncapi.json": lambda: json.dumps(asyncapi(), indent=2) + "\n",
    PACKAGE / "js" / "producer" / "vocabulary.js": vocabulary,
}

if __name__ == "__main__":
    for path, made in FILES.items():
        path.write_text(made())
