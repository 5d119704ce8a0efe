"""The second table: what conforms, and what is said of what doesn't."""

import pytest

from gateway import schema

GOOD = {
    "github_sync_started": {"direction": "to_github", "syncMode": "hybrid"},
    "github_sync_progress": {"message": "m", "percent": 12.5, "currentStep": None},
    "github_sync_conflict": {
        "conflicts": ["a"],
        "strategy": "manual_review",
        "resolutionRequired": True,
        "conflictDetails": {"localCommitSha": "1"},
    },
    "github_sync_completed": {
        "status": "success",
        "direction": "from_github",
        "filesChanged": 0,
        "duration": 1.5,
        "prUrl": "u",
    },
    "github_sync_failed": {
        "status": "failed",
        "error_code": "RATE_LIMIT",
        "message": "m",
        "retryable": True,
        "retryAfter": 3,
        "details": {"step": "s", "context": [1]},
    },
}


@pytest.mark.parametrize("type", schema.TYPES)
def test_what_conforms_has_no_violation_and_each_required_member_is_missed(type: str) -> None:
    assert schema.violation(type, GOOD[type]) is None
    assert schema.violation(type, GOOD[type] | {"extra": object()}) is None
    for member in schema.DATA[type]["required"]:
        rest = {name: value for name, value in GOOD[type].items() if name != member}
        assert schema.violation(type, rest) == f"{member} is missing"


@pytest.mark.parametrize(
    ("type", "change", "said"),
    [
        ("started", {"direction": "up"}, "direction is none of to_github, from_github"),
        ("started", {"syncMode": 1}, "syncMode is none of protected_pr, hybrid, direct_commit"),
        ("progress", {"percent": True}, "percent is not of type number"),
        ("progress", {"percent": "50"}, "percent is not of type number"),
        ("progress", {"percent": 100.5}, "percent is above 100"),
        ("progress", {"percent": -1}, "percent is below 0"),
        ("conflict", {"conflicts": ["a", 1]}, "conflicts holds something that is not a string"),
        ("conflict", {"conflictDetails": {"baseCommitSha": 1}}, "conflictDetails.baseCommitSha is not of type string"),
        ("completed", {"filesChanged": 1.5}, "filesChanged is not of type integer"),
        ("failed", {"error_code": "OOPS"}, "error_code is none of " + ", ".join(schema.ERROR_CODES)),
        ("failed", {"retryable": 1}, "retryable is not of type boolean"),
    ],
)
def test_a_violation_is_said_in_words(type: str, change: dict, said: str) -> None:
    type = f"github_sync_{type}"
    assert schema.violation(type, GOOD[type] | change) == said


def test_terminal_is_completed_and_failed_unless_retryable_is_true() -> None:
    assert schema.is_terminal(schema.COMPLETED, {})
    assert schema.is_terminal(schema.FAILED, {})
    assert schema.is_terminal(schema.FAILED, {"retryable": "true"})
    assert not schema.is_terminal(schema.FAILED, {"retryable": True})
    assert not schema.is_terminal(schema.PROGRESS, {})
