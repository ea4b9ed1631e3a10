"""Unique keys over HTTP: what a second submitter, a batch, and a second run are told."""

from __future__ import annotations

from tests.e2e.stack import Stack, client
from tests.e2e.test_bad_input import problem


async def test_a_second_submission_gets_the_first_job(product: Stack) -> None:
    _, url = product.gateway()
    worker = product.worker()
    worker.stop()  # the type is known, and nobody runs it
    wanted = {"type": "echo", "unique": "contact-7"}
    async with client(url) as http:
        first = await http.post("/v1/jobs", json=wanted)
        assert (first.status_code, "unique-existing" in first.headers) == (202, False)
        second = await http.post("/v1/jobs", json={**wanted, "input": {"other": 1}})
        assert (second.status_code, second.headers["unique-existing"]) == (202, "true")
        assert second.headers["location"] == first.headers["location"]
        assert second.json()["id"] == first.json()["id"]
        keyed = [await http.post("/v1/jobs", json=wanted, headers={"Idempotency-Key": "i"}) for _ in range(2)]
        assert [answer.json()["id"] for answer in keyed] == [first.json()["id"]] * 2
        assert keyed[1].headers["idempotent-replayed"] == "true"
        batch = await http.post("/v1/jobs/batch", json={"jobs": [wanted, {**wanted, "unique": "b"}, {"type": "echo"}]})
        answers = batch.json()["jobs"]
        assert [answer.get("existing", False) for answer in answers] == [True, False, False]
        assert answers[0]["job"]["id"] == first.json()["id"]

        path = first.headers["location"]
        await http.post(f"{path}/cancel")
        third = await http.post("/v1/jobs", json=wanted)
        assert third.json()["id"] != first.json()["id"]
        refused = await http.post(f"{path}/retry")
        problem(refused, 409, "conflict")
        assert third.json()["id"] in refused.json()["detail"]
        await http.post(f"/v1/jobs/{third.json()['id']}/cancel")
        assert (await http.post(f"{path}/retry")).status_code == 202


async def test_the_rule_of_a_key_is_named(product: Stack) -> None:
    _, url = product.gateway()
    async with client(url) as http:
        rules = {}
        for unique in ("", "x" * 201, 7):
            answer = await http.post("/v1/jobs", json={"type": "echo", "unique": unique})
            rules[unique] = problem(answer, 422, "invalid-fields")
    assert rules[""] == {"/unique": "must have at least 1 characters"}
    assert rules["x" * 201] == {"/unique": "must have at most 200 characters"}
    assert set(rules[7]) == {"/unique"}
