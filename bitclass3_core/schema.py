"""Moved to ``bitclass3_core.runs.schema``; this name stays for plugin API 1."""

from bitclass3_core.runs.schema import pipeline_schema, schema_json

__all__ = ["pipeline_schema", "schema_json"]
