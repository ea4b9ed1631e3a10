"""Who may do what with jobs (DESIGN 3.4), whatever the way they ask."""

from __future__ import annotations

from gateway.auth.keys import ROOT, require
from gateway.auth.principals import Principal
from gateway.errors import Forbidden, NotFound
from gateway.jobs.records import Job
from gateway.jobs.submission import Submission


def check_submitter(principal: Principal, wanted: Submission) -> None:
    """Insist on the right to submit; a submitter may name only channels it may publish to.

    Raises:
        Forbidden: a scope is missing.
    """
    check_writer(principal)
    if wanted.channels:
        require(principal, "events:publish")


def check_writer(principal: Principal) -> None:
    """Insist on the right to change jobs; raises Forbidden."""
    require(principal, "jobs:write")


def check_reader(principal: Principal, job: Job) -> None:
    """Insist on the right to read a job.

    Raises:
        Forbidden: the API key lacks the scope.
        NotFound: it is somebody else's; whether it exists is not a token's to know.
    """
    if principal.kind == "key":
        require(principal, "jobs:read")
    elif not principal.subject or job.owner != principal.subject:
        raise NotFound("there is no such job")


def check_root(principal: Principal) -> None:
    """Insist on the root key: what belongs to no tenant may hold anything of any of them.

    Raises:
        Forbidden: it is another.
    """
    if principal.kind != "key" or principal.subject != ROOT:
        raise Forbidden("Only the root key may see what belongs to no tenant")
