"""`qtool schema`: print the JSON Schema of what the other commands write."""

import json

import click

from qtool.cli.common import Command
from qtool.cli.outputs import show


@click.command("schema", cls=Command)
def command() -> None:
    """Print the JSON Schema (draft 2020-12) of all that `--json` writes, and of plans.

    \b
    Example:
      qtool schema > qtool.schema.json
    """
    from qtool.core.records.schema import json_schema

    show(json.dumps(json_schema(), indent=1), needed=True)
