"""schemathesis: requests made from the OpenAPI description, and answers checked against it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from anyclass.review.app import create_app
from anyclass.review.session import Session, Tools
from anyclass.review.thumbnails import Thumbnails
from tests.review.conftest import Reviewed

pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module"  # the model is loaded meanwhile, in another thread
)
TOKEN = "token"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 10
"""Requests of each operation; `make harden` sends more."""


@pytest.fixture(scope="module")
def api(reviewed: Reviewed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The description of a running server; no training starts."""
    import shutil

    from anyclass import Backbone, Classifier

    folder = tmp_path_factory.mktemp("openapi")
    run = Path(shutil.copytree(reviewed.run, folder / "run"))

    def load(run: Path) -> tuple[Backbone, Classifier]:
        base = Backbone.load(reviewed.model, "cpu", engine="torch")
        return base, Classifier.load(run / "model", "cpu", engine="torch", base=base)

    def edit_classes(run: Path, **edit: Any) -> dict[str, Any]:
        return {"renamed": {"a": "b"}, "merged": {}, "split": {}, "rejected": [], "restored": []}

    session = Session(run, Tools(load, edit_classes), Thumbnails(folder / "thumbnails"))
    session.index.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anyclass.review.training._CODE", "print('nothing is trained')")
        app = create_app(session, TOKEN, ["testserver", "localhost", "127.0.0.1"])
        yield schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)
        session.close()


OPERATIONS = (
    "GET /api/state",
    "GET /api/view",
    "GET /api/rows",
    "GET /api/useful",
    "GET /thumbnails/{id}",
    "GET /images/{id}",
    "POST /api/corrections",
    "POST /api/undo",
    "GET /api/corrections.csv",
    "POST /api/classes",
    "POST /api/training",
    "GET /api/training",
    "DELETE /api/training",
    "GET /api/training/result",
    "POST /api/training/open",
    "POST /predict",
)


def send(operation: Any, count: int) -> None:
    """Send requests made from the description of an operation, and check the answers."""

    @given(case=operation.as_strategy())
    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        case.call_and_validate(headers=HEADERS, checks=CHECKS)

    check()


@pytest.mark.parametrize("label", OPERATIONS)
def test_answers__are_as_described(api: Any, label: str) -> None:
    send(api.find_operation_by_label(label), EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("label", OPERATIONS)
def test_answers__are_as_described_for_many_requests(api: Any, label: str) -> None:
    send(api.find_operation_by_label(label), 100 * EXAMPLES)


def test_description__names_every_operation_and_each_needs_the_token(api: Any) -> None:
    operations = [result.ok() for result in api.get_all_operations()]
    assert sorted(operation.label for operation in operations) == sorted(OPERATIONS)
    for operation in operations:
        case = operation.Case(path_parameters={"id": 1})
        answer = case.call(headers={"authorization": "Bearer wrong"})
        assert answer.status_code == 401, operation.label
