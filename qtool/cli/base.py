"""The way in which the group and its commands print their help."""

from typing import Any

import click

from qtool.cli.streams import say


class Helpful(click.Command):
    """A command whose `--help` goes to standard output as everything else does."""

    def __init__(self, *args: Any, **values: Any) -> None:
        # click keeps the option that the first context asks for, which may be one without the group's
        values["context_settings"] = {"help_option_names": ["-h", "--help"], **(values.get("context_settings") or {})}
        super().__init__(*args, **values)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return click's option, which prints in our way."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


def _show_help(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        say(context.get_help(), needed=True)
        context.exit()
