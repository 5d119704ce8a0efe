"""One sync of one repository, step by step, as a generator-free sequence of real git commands that report themselves.

Reads the files, writes the tree, commits, pushes; or fetches. What comes of it (a push, a merge conflict, a refusal) is
whatever git makes of the state that `workshop.py` put the repository into.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from tests.worker.git import Git, GitError

Publish = Callable[..., None]


def classify(output: str) -> tuple[str, bool]:
    """The error code, and whether trying again can help, of what git said."""
    text = output.lower()
    if "protected branch" in text:
        return "BRANCH_PROTECTED", False
    if "non-fast-forward" in text or "fetch first" in text:
        return "NOT_FAST_FORWARD", True
    if "could not resolve host" in text or "timed out" in text or "unable to access" in text:
        return "UPSTREAM_UNAVAILABLE", True
    return "UNKNOWN", False


class Sync:
    """A sync of `repository` with its remote `origin`; `publish(type, **data)` tells of it."""

    def __init__(self, repository: Path, publish: Publish) -> None:
        self._git = Git(repository)
        self._repository = repository
        self._publish = publish
        self._began = time.monotonic()
        self._before = self._git("rev-parse", "HEAD").strip()

    def to_github(self, branch: str, *, merge: bool) -> None:
        """Reads, commits and pushes. With `merge` the remote's changes are taken in first, local changes winning."""
        self._publish("github_sync_started", direction="to_github", syncMode="direct_commit")
        try:
            self._read()
            if merge:
                self._merge(branch)
            commit = self._commit()
            self._push(branch)
        except GitError as error:
            self._failed(error)
            return
        self._progress(100, "Done", "done")
        files, insertions, deletions = self._numbers(commit)
        self._publish(
            "github_sync_completed",
            status="success",
            direction="to_github",
            filesChanged=files,
            insertions=insertions,
            deletions=deletions,
            commitSha=commit,
            branchName=branch,
            duration=self._elapsed(),
        )

    def from_github(self, branch: str) -> None:
        """Fetches and fast-forwards."""
        self._publish("github_sync_started", direction="from_github")
        try:
            self._progress(0, "Asking the remote for news…", "fetch")
            self._git("fetch", "--progress", "origin", branch, on_progress=self._within(5, 80, "fetch"))
            self._progress(85, "Updating the files…", "checkout")
            self._git("merge", "--ff-only", "FETCH_HEAD")
            after = self._git("rev-parse", "HEAD").strip()
        except GitError as error:
            self._failed(error)
            return
        self._progress(100, "Done", "done")
        files, insertions, deletions = self._numbers(after)
        self._publish(
            "github_sync_completed",
            status="success",
            direction="from_github",
            filesChanged=files,
            insertions=insertions,
            deletions=deletions,
            commitSha=after,
            branchName=branch,
            duration=self._elapsed(),
        )

    def _read(self) -> None:
        files = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]
        for number, name in enumerate(files, 1):
            path = self._repository / name
            if path.is_file():
                hashlib.file_digest(path.open("rb"), "sha1")
            self._progress(number * 20 / len(files), f"Reading project files… {number} of {len(files)}", "read")

    def _merge(self, branch: str) -> None:
        self._commit()
        self._git("fetch", "--progress", "origin", branch, on_progress=self._within(20, 5, "fetch"))
        try:
            self._git("merge", "--no-edit", "FETCH_HEAD")
        except GitError:
            conflicts = self._git("diff", "--name-only", "--diff-filter=U").splitlines()
            if not conflicts:
                raise
            base = self._git("merge-base", "HEAD", "FETCH_HEAD").strip()
            self._publish(
                "github_sync_conflict",
                conflicts=conflicts,
                strategy="local_wins",
                resolutionRequired=False,
                conflictDetails={
                    "localCommitSha": self._git("rev-parse", "HEAD").strip(),
                    "remoteCommitSha": self._git("rev-parse", "FETCH_HEAD").strip(),
                    "baseCommitSha": base,
                },
            )
            self._git("checkout", "--ours", "--", *conflicts)
            self._git("add", "--", *conflicts)
            self._git("commit", "--no-edit")

    def _commit(self) -> str:
        self._progress(25, "Creating tree…", "tree")
        self._git("add", "--all")
        self._progress(30, "Creating commit…", "commit")
        if self._git("status", "--porcelain"):
            self._git("commit", "--quiet", "--message", f"Sync at {time.strftime('%H:%M:%S')}")
        return self._git("rev-parse", "HEAD").strip()

    def _push(self, branch: str) -> None:
        self._progress(35, "Pushing…", "push")
        self._git("push", "--progress", "origin", f"HEAD:{branch}", on_progress=self._within(35, 64, "push"))

    def _within(self, start: float, width: float, step: str) -> Callable[[str, int], None]:
        """git's own percentages, laid into a stretch of the bar: each of its steps goes on where the last one was."""
        highest = start

        def on_progress(doing: str, percent: int) -> None:
            nonlocal highest
            highest = (
                max(highest, start + width * percent / 100) if doing.startswith(("Writing", "Receiving")) else highest
            )
            self._progress(highest, f"{doing}: {percent}%", step)

        return on_progress

    def _progress(self, percent: float, message: str, step: str) -> None:
        self._publish("github_sync_progress", percent=round(percent, 1), message=message, currentStep=step)

    def _failed(self, error: GitError) -> None:
        code, retryable = classify(error.output)
        self._publish(
            "github_sync_failed",
            status="failed",
            error_code=code,
            message=str(error),
            retryable=retryable,
            **({"retryAfter": 5} if retryable else {}),
            details={"originalError": error.output[-2000:], "step": "push"},
        )

    def _numbers(self, commit: str) -> tuple[int, int, int]:
        rows = [row.split("\t") for row in self._git("diff", "--numstat", self._before, commit).splitlines()]
        counts = [(int(added), int(removed)) for added, removed, _ in rows if added != "-"]
        return len(rows), sum(added for added, _ in counts), sum(removed for _, removed in counts)

    def _elapsed(self) -> int:
        return round((time.monotonic() - self._began) * 1000)
