"""Makes what there is to sync: a repository with a few hundred files, a bare remote, a colleague who pushes too."""

import base64
import random
import shutil
from pathlib import Path

from tests.worker.git import Git

FILES = 300
PROTECTED = "release"

# What GitHub answers to a push on a protected branch, from a hook of the remote.
_HOOK = f"""#!/bin/sh
while read old new ref; do
  if [ "$ref" = refs/heads/{PROTECTED} ]; then
    echo "error: GH006: Protected branch update failed for $ref." >&2
    exit 1
  fi
done
"""


class Workshop:
    """`project` is the worker's clone; `colleague` another clone of the same bare remote."""

    def __init__(self, folder: Path, source: Path | None) -> None:
        self.project = folder / "project"
        self.colleague = folder / "colleague"
        remote = folder / "remote.git"
        if source is not None:
            Git(folder)("clone", "--quiet", "--bare", str(source), str(remote))
            Git(folder)("clone", "--quiet", str(remote), str(self.project))
        else:
            Git(folder)("init", "--quiet", "--bare", "--initial-branch=main", str(remote))
            Git(folder)("init", "--quiet", "--initial-branch=main", str(self.project))
            Git(self.project)("remote", "add", "origin", str(remote))
            self._write_files(self.project, range(FILES))
            Git(self.project)("add", "--all")
            Git(self.project)("commit", "--quiet", "--message", "Begin")
            Git(self.project)("push", "--quiet", "origin", "main")
        hook = remote / "hooks" / "pre-receive"
        hook.write_text(_HOOK)
        hook.chmod(0o755)
        self.branch = Git(self.project)("rev-parse", "--abbrev-ref", "HEAD").strip()
        Git(folder)("clone", "--quiet", str(remote), str(self.colleague))

    def edit(self, count: int) -> None:
        """The user changes files of the project."""
        self._write_files(self.project, random.sample(range(FILES), count))

    def colleague_pushes(self, count: int) -> None:
        """Somebody else changes files and pushes them."""
        self._push_as_colleague(random.sample(range(FILES), count))

    def _push_as_colleague(self, numbers: list[int]) -> None:
        git = Git(self.colleague)
        git("fetch", "--quiet", "origin", self.branch)
        git("reset", "--quiet", "--hard", f"origin/{self.branch}")
        self._write_files(self.colleague, numbers)
        git("add", "--all")
        git("commit", "--quiet", "--message", "A colleague's change")
        git("push", "--quiet", "origin", f"HEAD:{self.branch}")

    def both_edit(self, count: int) -> None:
        """The same lines of the same files change on both sides: a conflict in waiting."""
        names = random.sample(range(FILES), count)
        self._push_as_colleague(names)
        self._write_files(self.project, names)

    def settle(self) -> None:
        """Puts the project where the remote is, so that the next sync starts clean."""
        git = Git(self.project)
        git("fetch", "--quiet", "origin", self.branch)
        git("reset", "--quiet", "--hard", f"origin/{self.branch}")
        shutil.rmtree(self.project / ".git" / "rebase-merge", ignore_errors=True)

    @staticmethod
    def _write_files(folder: Path, numbers: range | list[int]) -> None:
        for number in numbers:
            path = folder / f"src/part{number % 12:02}" / f"file{number:03}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.encodebytes(random.randbytes(random.randrange(2_000, 60_000))))
