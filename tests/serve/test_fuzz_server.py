"""Requests drawn from the server's own OpenAPI description are answered, never by a fault."""

from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import CHECKS

from tests.serve.test_page import Counter
from tests.serve.test_server import served

TRIES = 12


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(Counter(), batch_wait=0, characters=2000) as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["meant", "malformed"])
def test_no_request_is_a_fault(address: str, kind: str) -> None:
    document = requests.get(f"{address}/openapi.json", timeout=60).json()
    languages = {"source": ["en", "auto"], "target": ["de"]}  # so that most requests are served
    for path in document["paths"].values():
        for content in path.get("post", {}).get("requestBody", {}).get("content", {}).values():
            properties = content["schema"]["properties"]
            for key in languages.keys() & properties.keys():
                properties[key]["enum"] = languages[key]
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=address)
    names = ("not_a_server_error", "content_type_conformance", "response_schema_conformance")
    checks = [CHECKS.get_one(name) for name in (*names, "status_code_conformance")]
    mode = schemathesis.GenerationMode.POSITIVE
    if kind == "malformed":
        mode, checks = schemathesis.GenerationMode.NEGATIVE, checks[:1]
    statuses = set()
    for result in schema.get_all_operations():
        if kind == "malformed" and result.ok().method.upper() == "GET":
            continue
        strategy = result.ok().as_strategy(generation_mode=mode)

        @seed(1)
        @settings(
            max_examples=TRIES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def send(case: schemathesis.Case) -> None:
            response = case.call(timeout=60)
            statuses.add(response.status_code)
            case.validate_response(response, checks=checks)

        send()
    assert max(statuses) < 500 and 400 in statuses
    assert kind == "malformed" or 200 in statuses
    assert requests.get(f"{address}/health", timeout=60).json() == {"status": "ok"}
