"""``bitclass3 schema``: what a pipeline file may hold, for editors."""


def schema() -> None:
    """Print the JSON schema of the pipeline file, with the installed plugins and their options, for editors."""
    from bitclass3_core.runs.schema import schema_json

    print(schema_json(), end="")
