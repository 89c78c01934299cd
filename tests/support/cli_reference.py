"""docs/cli.md is what `--help` says: `python -m tests.support.cli_reference` writes it again, and a test compares."""

from click.testing import CliRunner

from qtool.cli import COMMANDS
from qtool.cli.group import app
from tests.support.places import REPOSITORY

FILE = REPOSITORY / "docs" / "cli.md"


def reference() -> str:
    """The help of qtool and of each command, in Markdown."""
    parts = ["# Commands\n\nWritten by `python -m tests.support.cli_reference` from `--help`.\n"]
    for name in ("", *COMMANDS):
        words = [name] if name else []
        answer = CliRunner().invoke(app, [*words, "--help"], prog_name="qtool", terminal_width=100)
        assert answer.exit_code == 0, answer.output
        parts.append(f"## qtool {name}".rstrip() + f"\n\n```text\n{answer.output.rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
