"""The OpenAPI description as one plain page: no script, and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from funnelrec.serving.rest.errors import CODES

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
body{color:#1c1c1c;background:#fff}
h2{border-top:1px solid #ccc;padding-top:1rem}
code,pre{font:14px/1.4 ui-monospace,monospace;background:#f3f3f3}
pre{padding:.7rem;overflow-x:auto}
table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;vertical-align:top}
.method{font-weight:700;text-transform:uppercase}
@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#161616}code,pre{background:#262626}
td,th{border-color:#444}h2{border-color:#444}a{color:#8ab4ff}}
""".strip()


def docs_page(schema: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI description.

    Parameters
    ----------
    schema
        As ``/openapi.json`` gives it.
    """
    info = schema["info"]
    schemas = schema.get("components", {}).get("schemas", {})
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('description', ''))} "
        'For programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(path, method, operation, schemas))
    rows = "".join(
        f"<tr><td><code>{code}</code></td><td>{status}</td><td>{escape(meaning)}</td></tr>"
        for code, (status, meaning) in CODES.items()
    )
    parts.append(
        "<h2>Errors</h2><p>Every error has the same form; a code never changes its meaning.</p>"
        f"{_example(schemas['ErrorAnswer'])}"
        f"<table><tr><th>code</th><th>status</th><th>meaning</th></tr>{rows}</table>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )


def _operation(
    path: str, method: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    parts = [
        f'<h2><span class="method">{escape(method)}</span> <code>{escape(path)}</code></h2>',
        f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>",
    ]
    rows = [
        (f"{part['name']} ({part['in']})", part["schema"], part.get("description", ""))
        for part in operation.get("parameters", [])
    ]
    body = _json_schema(operation.get("requestBody", {}), schemas)
    for name, field in (body or {}).get("properties", {}).items():
        rows.append((name, field, field.get("description", "")))
    if rows:
        cells = "".join(
            f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(kind))}</td>"
            f"<td>{escape(text)}</td></tr>"
            for name, kind, text in rows
        )
        parts.append(f"<table>{cells}</table>")
    if body:
        parts.append(f"<p>Asked, for example:</p>{_example(body)}")
    answer = _json_schema(operation.get("responses", {}).get("200", {}), schemas)
    if answer and answer.get("examples"):
        parts.append(f"<p>Answered, for example:</p>{_example(answer)}")
    return "".join(parts)


def _json_schema(part: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = part.get("content", {}).get("application/json", {}).get("schema", {})
    name = str(found.get("$ref", "")).rpartition("/")[2]
    known: Mapping[str, Any] | None = schemas.get(name)
    return known


def _kind(field: Mapping[str, Any]) -> str:
    kind = field.get("type") or "or ".join(
        sorted({f"{part.get('type', 'object')} " for part in field.get("anyOf", [])})
    )
    words = [str(kind).strip()]
    if "enum" in field:
        words.append("one of " + ", ".join(map(str, field["enum"])))
    if "default" in field:
        words.append(f"default {json.dumps(field['default'])}")
    return "; ".join(words)


def _example(schema: Mapping[str, Any]) -> str:
    return "".join(
        f"<pre>{escape(json.dumps(example, indent=2))}</pre>"
        for example in schema.get("examples", [])
    )
