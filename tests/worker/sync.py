"""One sync of one repository, step by step: a sequence of real git commands that report themselves through the kit.

Reads the files, writes the tree, commits, pushes; or fetches. What comes of it (a push, a merge conflict, a refusal) is
whatever git makes of the state that `workshop.py` put the repository into.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from gateway.producer import Operation
from tests.worker.git import Git, GitError


class Sync:
    """A sync of `repository` with its remote `origin`, told of by `op`. Raises GitError where git refuses."""

    def __init__(self, repository: Path, op: Operation) -> None:
        self._git = Git(repository)
        self._repository = repository
        self._op = op
        self._before = self._git("rev-parse", "HEAD").strip()

    def to_github(self, branch: str, *, merge: bool) -> None:
        """Reads, commits and pushes. With `merge` the remote's changes are taken in first, local changes winning."""
        self._read()
        if merge:
            self._merge(branch)
        commit = self._commit()
        self._op.progress(35, "Pushing…", step="push")
        self._git("push", "--progress", "origin", f"HEAD:{branch}", on_progress=self._within(35, 64, "push"))
        self._done(commit, branch)

    def from_github(self, branch: str) -> None:
        """Fetches and fast-forwards."""
        self._op.progress(0, "Asking the remote for news…", step="fetch")
        self._git("fetch", "--progress", "origin", branch, on_progress=self._within(5, 80, "fetch"))
        self._op.progress(85, "Updating the files…", step="checkout")
        self._git("merge", "--ff-only", "FETCH_HEAD")
        self._done(self._git("rev-parse", "HEAD").strip(), branch)

    def _read(self) -> None:
        files = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]
        for number, name in enumerate(files, 1):
            path = self._repository / name
            if path.is_file():
                with path.open("rb") as file:
                    hashlib.file_digest(file, "sha1")
            self._op.progress(number * 20 / len(files), f"Reading project files… {number} of {len(files)}", step="read")

    def _merge(self, branch: str) -> None:
        self._commit()
        self._git("fetch", "--progress", "origin", branch, on_progress=self._within(30, 5, "fetch"))
        try:
            self._git("merge", "--no-edit", "FETCH_HEAD")
        except GitError:
            conflicts = self._git("diff", "--name-only", "--diff-filter=U").splitlines()
            if not conflicts:
                raise
            details = {
                "localCommitSha": self._git("rev-parse", "HEAD").strip(),
                "remoteCommitSha": self._git("rev-parse", "FETCH_HEAD").strip(),
                "baseCommitSha": self._git("merge-base", "HEAD", "FETCH_HEAD").strip(),
            }
            self._op.conflict(conflicts, strategy="local_wins", details=details)
            self._git("checkout", "--ours", "--", *conflicts)
            self._git("add", "--", *conflicts)
            self._git("commit", "--no-edit")

    def _commit(self) -> str:
        self._op.progress(25, "Creating tree…", step="tree")
        self._git("add", "--all")
        self._op.progress(30, "Creating commit…", step="commit")
        if self._git("status", "--porcelain"):
            self._git("commit", "--quiet", "--message", f"Sync at {time.strftime('%H:%M:%S')}")
        return self._git("rev-parse", "HEAD").strip()

    def _within(self, start: float, width: float, step: str) -> Callable[[str, int], None]:
        """git's own percentages, laid into a stretch of the bar."""

        def on_progress(doing: str, percent: int) -> None:
            moves = doing.startswith(("Writing", "Receiving"))
            self._op.progress(start + (width * percent / 100 if moves else 0), f"{doing}: {percent}%", step=step)

        return on_progress

    def _done(self, commit: str, branch: str) -> None:
        self._op.progress(100, "Done", step="done")
        rows = [row.split("\t") for row in self._git("diff", "--numstat", self._before, commit).splitlines()]
        counts = [(int(added), int(removed)) for added, removed, _ in rows if added != "-"]
        self._op.result(
            files_changed=len(rows),
            insertions=sum(added for added, _ in counts),
            deletions=sum(removed for _, removed in counts),
            commit_sha=commit,
            branch_name=branch,
        )
