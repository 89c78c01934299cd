"""The page: sections in their order, drawn by the templates into one file that needs nothing else."""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

from qtool.core.errors import UsageError
from qtool.core.extras import installed_by
from qtool.report.html.accuracy import accuracy, worst
from qtool.report.html.blocks import Page, Section
from qtool.report.html.cards import cards
from qtool.report.html.documents import Document, check_alike
from qtool.report.html.errors import errors
from qtool.report.html.measured import models_of
from qtool.report.html.network import network
from qtool.report.html.origins import origins, plans
from qtool.report.html.trials import trials
from qtool.report.html.values import values
from qtool.report.html.verdicts import headlines, title_of, warnings

_ROOM = "qtool.report.html"


def require_jinja() -> None:
    """Raise `UsageError` where jinja2 is not installed, which pages are made with."""
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise UsageError(f"a page needs Jinja: {installed_by('report')}") from error


def page_of(documents: Sequence[Document]) -> str:
    """Return the page that shows these documents, as HTML in one file.

    Args:
        documents: at least one, all of one model.

    Raises:
        UsageError: they are of several models, a document lacks what its form has, or jinja2 is not installed.
    """
    require_jinja()
    try:
        check_alike(documents)
        sections = (
            *accuracy(documents),
            *network(documents),
            *errors(documents),
            *worst(documents),
            *values(documents),
            *trials(documents),
            *plans(documents),
            origins(documents),
        )
        models = models_of(documents)
        page = Page(
            title_of(documents),
            headlines(documents),
            cards(documents),
            _numbered(sections),
            warnings(documents),
            models[0] if len(models) > 1 else "",
        )
    except KeyError as error:
        raise UsageError(f"{_names(documents)}: has no {error.args[0]!r}; write it again with --json") from error
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        names = _names(documents)
        raise UsageError(f"{names}: holds figures that contradict each other; write it again with --json") from error
    return _drawn(page)


def _names(documents: Sequence[Document]) -> str:
    return " or ".join(dict.fromkeys(one.name for one in documents))


def _numbered(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Sections with anchors of their own, where several are of one kind."""
    total, seen = Counter(section.anchor for section in sections), Counter[str]()
    result = []
    for section in sections:
        seen[section.anchor] += 1
        count = seen[section.anchor]
        title = f"{section.title}: {section.of or count}" if total[section.anchor] > 1 else section.title
        anchor = section.anchor if count == 1 else f"{section.anchor}-{count}"
        result.append(replace(section, anchor=anchor, title=title))
    return tuple(result)


def _drawn(page: Page) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(_ROOM), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = _asset("page.css"), _asset("page.js")
    template = environment.get_template("page.html")
    return template.render(page=page, style=style, script=script, style_hash=_hash(style), script_hash=_hash(script))


def _asset(name: str) -> Any:
    """A file that is put into the page as it is, since it is ours."""
    from markupsafe import Markup

    return Markup(resources.files(_ROOM).joinpath("templates", name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    """How a content security policy names a text that it lets run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
