"""The page that lists the API, made from its OpenAPI description; it loads nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code { font-size: 0.9em }
details { border-top: 1px solid #8886; padding: 0.5rem 0 }
summary { cursor: pointer }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0; border-top: 1px solid #8884 }
"""


def docs_page(openapi: Mapping[str, Any]) -> str:
    """Return HTML, without scripts, with every path of an OpenAPI document and the fields that it takes."""
    schemas = openapi.get("components", {}).get("schemas", {})
    parts = [
        _path(path, method, operation, schemas)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    title, about = (escape(openapi["info"].get(key, "")) for key in ("title", "description"))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{title}: API</h1><p>{about} As a file for programs: "
        f'<a href="openapi.json">openapi.json</a>.</p>{"".join(parts)}</html>'
    )


def _path(path: str, method: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    about = escape(operation.get("description", "").strip())
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = content.get("schema", {})
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    rows = [_row(field, one, one.get("description", "")) for field, one in schema.get("properties", {}).items()]
    rows += [_row(p["name"], p["schema"], "in the address") for p in operation.get("parameters", ())]
    table = f"<table><tr><th>field<th>kind<th>default<th>meaning</tr>{''.join(rows)}</table>" if rows else ""
    head = f"<summary><code>{method.upper()} {escape(path)}</code></summary>"
    return f"<details>{head}<p>{about}</p>{table}</details>"


def _row(name: str, schema: Mapping[str, Any], about: str) -> str:
    kinds = [one.get("type", "any") for one in schema.get("anyOf", (schema,))]
    kind = " or ".join(kind for kind in kinds if kind != "null")
    default = escape(str(schema["default"])) if schema.get("default") not in (None, "") else ""
    return f"<tr><td><code>{escape(name)}</code><td>{kind}<td>{default}<td>{escape(about)}</tr>"
