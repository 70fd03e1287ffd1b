"""The server: the review page, what it asks for, and predictions for programs."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, no_type_check

from fastapi import FastAPI, File, Query, Request, Response, Security, UploadFile
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from jinja2 import Environment, FileSystemLoader
from starlette.types import ASGIApp

from anyclass.errors import AnyclassError, ImageError, printable
from anyclass.report.words import plain
from anyclass.review import schema
from anyclass.review.catalogue import Show, Sort
from anyclass.review.corrections import table_of
from anyclass.review.protection import protected
from anyclass.review.session import Session
from anyclass.review.thumbnails import LARGE, encoded
from anyclass.review.uploads import predict_uploads

HERE = Path(__file__).parent

MOST_IMAGES = 64
"""Maximum number of images in one request for predictions."""

ROWS = 400
"""Maximum number of rows in one answer."""

ABOUT = """Predict images with a run of anyclass, and review its labels.

Every request needs the token that `anyclass serve` printed, as the header
`Authorization: Bearer TOKEN`."""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": schema.Problem, "description": "The request is wrong."},
    401: {"model": schema.Problem, "description": "The token is missing."},
    403: {"model": schema.Problem, "description": "The request comes from another origin."},
    404: {"model": schema.Problem, "description": "There is no such image."},
    409: {"model": schema.Problem, "description": "Not possible now; `detail` says why."},
    411: {"model": schema.Problem, "description": "The Content-Length is missing."},
    413: {"model": schema.Problem, "description": "The request is too large."},
    422: {"model": schema.Problem, "description": "A field is missing or wrong."},
}
"""Answers to requests that are refused."""

NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""Of FastAPI: paths, errors and their stack traces go to no collector; older ones know none."""

ImageId = Annotated[int, InPath(ge=0, lt=2**31)]


def create_app(session: Session, token: str, hosts: Sequence[str]) -> ASGIApp:
    """Build the server of a session.

    Args:
        session: the run that is reviewed.
        token: what every request must know.
        hosts: values of the Host header that are served.
    """
    return protected(create_api(session), token, hosts, uploads=("/predict",))


def create_api(session: Session) -> FastAPI:
    """Build the routes, without their protection."""
    app = FastAPI(
        title="anyclass",
        description=ABOUT,
        docs_url=None,  # the usual page loads scripts from elsewhere
        redoc_url=None,
        responses=PROBLEMS,
        telemetry=NO_TELEMETRY,
        dependencies=[Security(HTTPBearer(auto_error=False))],
    )
    app.add_exception_handler(AnyclassError, _refused)
    app.add_exception_handler(RequestValidationError, _wrong)
    app.add_exception_handler(Exception, _failed)
    _add_pages(app, session)
    _add_views(app, session)
    _add_images(app, session)
    _add_corrections(app, session)
    _add_training(app, session)
    _add_predictions(app, session)
    return app


def _refused(request: Request, error: Exception) -> Response:
    """Answer to an error of ours: its message."""
    status = 404 if isinstance(error, ImageError) else 409
    return JSONResponse({"detail": printable(str(error))}, status)


def _wrong(request: Request, error: Exception) -> Response:
    """Answer to a request with a wrong field: which, and why; nothing of what it held."""
    found = error.errors() if isinstance(error, RequestValidationError) else ()
    problems = [f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in found[:3]]
    if request.url.path == "/predict":
        field = "multipart field `images`"
        problems.append(f"give 1 to {MOST_IMAGES} images as the {field}: see /docs")
    return JSONResponse({"detail": printable("; ".join(problems))}, 422)


def _failed(request: Request, error: Exception) -> Response:
    """Answer to any other error: nothing of the inside."""
    logging.getLogger("anyclass").error("%s: %s", request.url.path, error)
    return JSONResponse({"detail": "the server failed; its terminal says more"}, 500)


def _add_pages(app: FastAPI, session: Session) -> None:
    """The page, its style and script, and the page about predictions."""
    templates = Environment(loader=FileSystemLoader(HERE), autoescape=True)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        name = plain(session.catalogue.run.absolute().name, 80)
        return templates.get_template("page.html").render(name=name)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    def docs(request: Request) -> str:
        names = [plain(name, 80) for name in session.catalogue.classes.names[:3]]
        address = str(request.base_url).rstrip("/")
        template = templates.get_template("docs.html")
        return template.render(
            address=address, names=names, fields=_fields(schema.UploadPrediction)
        )

    @app.get("/page.css", include_in_schema=False)
    def style() -> FileResponse:
        return FileResponse(HERE / "page.css", media_type="text/css")

    @app.get("/page.js", include_in_schema=False)
    def script() -> FileResponse:
        return FileResponse(HERE / "page.js", media_type="text/javascript")


def _fields(model: type[schema.ResponseBody]) -> list[tuple[str, str]]:
    """Name and description of each field."""
    return [(name, field.description or "") for name, field in model.model_fields.items()]


def _add_views(app: FastAPI, session: Session) -> None:
    """The state of the session, and rows of images in an order."""

    @app.get("/api/state")
    def state() -> schema.SessionState:
        """The run, its classes, and what can be done."""
        return schema.SessionState.model_validate(session.state())

    @app.get("/api/view")
    def view(
        sort: Sort = "least_confident",
        label: Annotated[str | None, Query(max_length=1000)] = None,
        show: Show = "all",
    ) -> schema.Ids:
        """Images in an order, perhaps of one class only."""
        return schema.Ids(ids=session.view(sort, label, show))

    @app.get("/api/rows")
    def rows(ids: Annotated[list[schema.Id], Query(max_length=ROWS)]) -> schema.RowList:
        """What is known of some images."""
        return schema.RowList.model_validate({"rows": session.rows(ids)})

    @app.get("/api/useful")
    def useful(
        count: Annotated[int, Query(ge=1, le=200)] = 30,
        label: Annotated[str | None, Query(max_length=1000)] = None,
    ) -> schema.Useful:
        """Images whose label would teach most: uncertain, typical, and unlike each other."""
        return schema.Useful(ids=session.useful(count, label), message=session.index.message())


def _add_images(app: FastAPI, session: Session) -> None:
    """Images by their row, never by a path."""

    @app.get("/thumbnails/{id}", response_class=Response, responses=JPEG)
    def thumbnail(id: ImageId) -> Response:
        """A small JPEG of an image."""
        catalogue = session.catalogue
        _check(session, id)
        data = session.thumbnails.get(catalogue.path(id), catalogue.root)
        return Response(data, media_type="image/jpeg", headers={"cache-control": KEPT})

    @app.get("/images/{id}", response_class=Response, responses=JPEG)
    def image(id: ImageId) -> Response:
        """A larger JPEG of an image."""
        catalogue = session.catalogue
        _check(session, id)
        data = encoded(catalogue.path(id), catalogue.root, LARGE)
        return Response(data, media_type="image/jpeg", headers={"cache-control": KEPT})


KEPT = "private, max-age=86400"
"""How long a browser keeps an image; the page asks for those of each run under other addresses."""

JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}


def _check(session: Session, i: int) -> None:
    """Require an image.

    Raises:
        ImageError: there is none in this row.
    """
    if not 0 <= i < len(session.catalogue):
        raise ImageError("missing", f"there is no image {i}")


def _add_corrections(app: FastAPI, session: Session) -> None:
    """Corrections, undo, and edits of the classes."""

    @app.post("/api/corrections")
    def correct(body: schema.Correction) -> schema.SessionState:
        """Give images a label; it is on disk when this answers."""
        session.correct(body.ids, body.label)
        return schema.SessionState.model_validate(session.state())

    @app.post("/api/undo")
    def undo() -> schema.Undone:
        """Take the last step back, also one of an earlier session."""
        return schema.Undone.model_validate(session.undo())

    @app.get("/api/corrections.csv", response_class=Response, responses=CSV)
    def table() -> Response:
        """The corrections as the table that `anyclass fit --labels` takes."""
        headers = {"content-disposition": 'attachment; filename="corrections.csv"'}
        text = table_of(session.corrections.labels)
        return Response(text.encode(), media_type="text/csv; charset=utf-8", headers=headers)

    @app.post("/api/classes")
    def edit(body: schema.ClassEdit) -> schema.SessionState:
        """Merge, split, reject or rename discovered classes in the files of the run."""
        session.edit(body)
        return schema.SessionState.model_validate(session.state())


CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}}}}


def _add_training(app: FastAPI, session: Session) -> None:
    """The second round."""

    @app.post("/api/training")
    def start() -> schema.TrainingProgress:
        """Train again, with the corrections as labels."""
        return schema.TrainingProgress.model_validate(session.train())

    @app.get("/api/training")
    def progress() -> schema.TrainingProgress:
        """How far the training is."""
        return schema.TrainingProgress.model_validate(session.training.progress())

    @app.delete("/api/training")
    def cancel() -> schema.TrainingProgress:
        """Cancel the training."""
        session.training.cancel()
        return schema.TrainingProgress.model_validate(session.training.progress())

    @app.get("/api/training/result")
    def result() -> schema.Comparison:
        """Before and after."""
        return schema.Comparison.model_validate(session.result())

    @app.post("/api/training/open")
    def go_on() -> schema.SessionState:
        """Review the new run from now on."""
        session.go_on()
        return schema.SessionState.model_validate(session.state())


def _add_predictions(app: FastAPI, session: Session) -> None:
    """Predictions for programs."""

    @app.post("/predict")
    @no_type_check  # FastAPI hands in Starlette's UploadFile, not the one of its own
    def predict(
        images: Annotated[list[UploadFile], File(min_length=1, max_length=MOST_IMAGES)],
        top: Annotated[int, Query(ge=1, le=100)] = 5,
        nearest: Annotated[int, Query(ge=0, le=50)] = 0,
    ) -> schema.UploadPredictions:
        """Predict one uploaded image or several; waits while the model is being loaded."""
        return schema.UploadPredictions(predictions=predict_uploads(session, images, top, nearest))
