"""The pages and files that are served, by address. Only what was found below the served folder can be asked for: a name
in an address is looked up, never opened."""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pcace_dist import __version__
from pcace_dist.analysis.compare import compare_runs
from pcace_dist.artifacts.bad_rows import BAD_ROWS
from pcace_dist.errors import PcaceError, StoreUnavailable, UserError
from pcace_dist.progress.table import middle_cut, text_of_records
from pcace_dist.progress.terminal import Format, visible, when
from pcace_dist.serving import run_view, tables
from pcace_dist.serving.catalog import Catalog
from pcace_dist.serving.finding import below, link_among
from pcace_dist.serving.guard import CONTENT_POLICY, REPORT_POLICY, Guard
from pcace_dist.serving.rows import MEANINGS, RunRow, State
from pcace_dist.serving.run_view import RunView
from pcace_dist.serving.selection import MOST, ORDERS, select
from pcace_dist.storage.files import first_line

REPORT = "report.html"
NAME_CELLS = 160  # of a name on a page
SENTENCE_CELLS = 800
LIVE = {"unread": 1, "works": 5, "quiet": 30, "run": 2}  # seconds between two looks of a page that is open
TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def address(page: str, **query: str) -> str:
    """The address of a page, with its query."""
    return f"/{page}?{urlencode(query, quote_via=quote)}" if query else f"/{page}"


def app_of(catalog: Catalog, shown: str, host: str) -> Guard:
    """The application, guarded: its errors have the headers, too. shown: the served folder as the user wrote it; host:
    the name that it listens on."""
    pages = Pages(catalog, shown)
    routes = {
        "/": pages.listing,
        "/runs.json": pages.runs_json,
        "/run": pages.run,
        "/status.json": pages.status_json,
        "/ranking.json": pages.ranking_json,
        "/ranking.csv": pages.ranking_csv,
        "/bad_rows.csv": pages.bad_rows_csv,
        "/report": pages.report,
        "/compare": pages.compare,
        "/schedule": pages.schedule,
        "/assets/serve.{ending}": asset,
    }
    app = Starlette(
        routes=[Route(path, page, methods=["GET"]) for path, page in routes.items()],
        exception_handlers=dict.fromkeys((HTTPException, PcaceError, OSError, Exception), pages.refusal),
    )
    return Guard(app, host)


class Pages:
    """The pages over a catalog. Each is called in a thread of its own."""

    def __init__(self, catalog: Catalog, shown: str) -> None:
        self._catalog, self._shown = catalog, shown
        environment = Environment(
            loader=FunctionLoader(_asset),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_as_text,
        )
        environment.filters |= {
            "cut": lambda text: middle_cut(visible(text), NAME_CELLS),
            "sentence": lambda text: middle_cut(visible(text), SENTENCE_CELLS),
            "exactly": escape,  # in a value that comes back: nothing is shown otherwise
            "when": when,
        }
        environment.globals |= {"address": address, "shown": shown, "version": __version__, "place": self._place}
        self._environment = environment

    # -- the list

    def listing(self, request: Request) -> Response:
        look, query = self._catalog.look(), dict(request.query_params)
        rows = select(look.runs, query)
        pace = "unread" if look.unread else "works" if any(row.state == State.RUNNING for row in rows) else "quiet"
        return self._page(
            "list",
            every=LIVE[pace],
            look=look,
            rows=rows[:MOST],
            hidden=len(rows) - len(rows[:MOST]),
            query={name: query.get(name, "") for name in ("q", "state", "sort")},
            states=MEANINGS,
            orders=list(ORDERS),
        )

    def runs_json(self, request: Request) -> Response:
        look = self._catalog.look()
        rows = select(look.runs, request.query_params)
        return JSONResponse({"runs": [row.to_json() for row in rows], "unread": look.unread, "notes": look.notes})

    # -- a run

    def run(self, request: Request) -> Response:
        row = self._row(request)
        choice = run_view.Choice.of(request.query_params)
        is_linked = link_among(self._catalog.folder(row.name)) is not None
        view = RunView() if is_linked else run_view.view_of(self._catalog.open(row.name), row, choice)
        runs = self._catalog.look().runs if row.is_done else ()
        status = self._catalog.watch(row.name).status
        return self._page(
            "run",
            every=LIVE["run"] if row.state == State.RUNNING else None,
            row=row,
            view=view,
            choice=choice,
            lines=list(status.lines())[1:] if status is not None and row.has_status else [],
            meaning=MEANINGS[row.state],
            others=sorted(other.name for other in runs if other.is_done and other.name != row.name)[:MOST],
            has_report=not is_linked and REPORT in self._catalog.folder(row.name).files,
            query={"run": row.name} | {name: str(value) for name, value in asdict(choice).items()},
        )

    def status_json(self, request: Request) -> Response:
        row = self._row(request)
        self._catalog.open(row.name)  # refuses links
        watch = self._catalog.watch(row.name)
        status = watch.status if row.has_status else watch.look()[0]
        return JSONResponse((status.to_json() if status else {}) | {"run": self._place(row.name), "state": row.state})

    def ranking_json(self, request: Request) -> Response:
        return _download(text_of_records(self._records(request), Format.JSON), "ranking.json", "application/json")

    def ranking_csv(self, request: Request) -> Response:
        return _download(text_of_records(self._records(request), Format.CSV), "ranking.csv", "text/csv")

    def _records(self, request: Request) -> list[dict[str, Any]]:
        choice = run_view.Choice.of(request.query_params)
        top = choice.top if "top" in request.query_params else None
        return run_view.records_of(self._catalog.open(self._row(request).name), choice, top)

    def bad_rows_csv(self, request: Request) -> Response:
        table = self._catalog.open(self._row(request).name).bad_rows()
        text = text_of_records(run_view.as_records(table, f"read {BAD_ROWS}"), Format.CSV, table.column_names)
        return _download(text, "bad_rows.csv", "text/csv")

    def report(self, request: Request) -> Response:
        row = self._row(request)
        file = self._catalog.folder(row.name).files.get(REPORT)
        if file is None:
            raise HTTPException(404, f"no {REPORT} yet; write it: pcace report {self._place(row.name)}")
        page = self._catalog.storage.read_bytes(file.url)
        return HTMLResponse(page, headers={CONTENT_POLICY: REPORT_POLICY})

    # -- two runs, a schedule

    def compare(self, request: Request) -> Response:
        names = request.query_params.getlist("run")
        if len(names) != 2:
            raise HTTPException(400, f"{len(names)} runs are chosen; choose two in the list")
        rows = sorted((self._named(name) for name in names), key=lambda row: row.when or 0.0)
        unfinished = [row.name for row in rows if not row.is_done]
        if unfinished:
            raise HTTPException(400, f"{middle_cut(visible(unfinished[0]), NAME_CELLS)}: has no result to compare")
        choice = run_view.Choice.of(request.query_params)
        comparison = compare_runs(self._catalog.open(rows[0].name), self._catalog.open(rows[1].name))
        comparable = comparison.verdict != "not comparable"
        return self._page(
            "compare",
            rows=rows,
            comparison=comparison,
            differences=run_view.differences(rows),
            agreement=tables.agreement(comparison) if comparable else None,
            pairs=tables.side_by_side(comparison, choice.top) if comparable else [],
            choice=choice,
        )

    def schedule(self, request: Request) -> Response:
        name = request.query_params.get("schedule", "")
        row = next((row for row in self._catalog.look(60).schedules if row.name == name), None)
        if row is None:
            raise HTTPException(404, "there is no such schedule")
        table = None if row.history is None else tables.history(row.history)
        return self._page("schedule", row=row, table=table)

    # -- what pages have in common

    def _row(self, request: Request) -> RunRow:
        return self._named(request.query_params.get("run"))

    def _named(self, name: str | None) -> RunRow:
        row = None if name is None else self._catalog.run(name)
        if row is None:
            raise HTTPException(404, "there is no such run")
        return row

    def _place(self, name: str) -> str:
        """Where a run lies, as the user writes it in a command."""
        return below(self._shown, name)

    def _page(self, name: str, *, every: int | None = None, status: int = 200, **content: Any) -> Response:
        template = self._environment.get_template(f"{name}.html.j2")
        return HTMLResponse(template.render(every=every, **content), status_code=status)

    def refusal(self, request: Request, error: Exception) -> Response:
        """An error as a page, or as a line for programs. What is unforeseen is logged by the server."""
        message, status = _said(error)
        if request.url.path.endswith((".json", ".csv")):
            return PlainTextResponse(f"{message}\n", status_code=status)
        return self._page("refusal", status=status, message=message)


def _said(error: Exception) -> tuple[str, int]:
    """The line and the status of an error."""
    if isinstance(error, HTTPException):
        return str(error.detail), error.status_code
    if isinstance(error, StoreUnavailable | OSError):
        return first_line(error), 503
    if isinstance(error, PcaceError):
        return first_line(error), 400 if isinstance(error, UserError) else 500
    return f"something unforeseen happened ({type(error).__name__}); the terminal that serves this page says more", 500


def asset(request: Request) -> Response:
    """The style sheet or the script."""
    ending = request.path_params["ending"]
    if ending not in TYPES:
        raise HTTPException(404)
    return Response(_asset(f"serve.{ending}"), media_type=TYPES[ending])


def _asset(name: str) -> str:
    return (files("pcace_dist.serving") / "assets" / name).read_text(encoding="utf-8")


def _as_text(value: object) -> object:
    """What a template prints: characters that would be obeyed or hidden are escapes."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else visible(value, keep="\n")


def _download(text: str, name: str, media_type: str) -> Response:
    return Response(text, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})
