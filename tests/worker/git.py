"""git, run as a command: its progress read as it comes, its failures raised with what it said."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

_PERCENT = re.compile(r"(?P<step>[A-Z][a-z ]+): +(?P<percent>\d+)% \(")
_ENV = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "Sync worker",
    "GIT_AUTHOR_EMAIL": "worker@example.com",
    "GIT_COMMITTER_NAME": "Sync worker",
    "GIT_COMMITTER_EMAIL": "worker@example.com",
    "LC_ALL": "C",
}


class GitError(Exception):
    """git failed; `output` is what it wrote."""

    def __init__(self, arguments: tuple[str, ...], output: str) -> None:
        telling = [
            line.strip() for line in output.splitlines() if "rejected" in line or "error:" in line or "fatal:" in line
        ]
        super().__init__(f"git {arguments[0]}: {telling[0] if telling else 'failed'}")
        self.output = output


class Git:
    """The git command in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, on_progress: Callable[[str, int], None] | None = None) -> str:
        """What git printed on stdout. `on_progress` gets git's own step names and percentages. Raises GitError."""
        process = subprocess.Popen(
            ["git", "-C", str(self.folder), *arguments],
            env=os.environ | _ENV,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        assert process.stderr is not None
        said = []
        # git ends a progress line with a carriage return, so that the next overwrites it; text mode reads it as a line.
        for line in process.stderr:
            if match := _PERCENT.search(line):
                if on_progress:
                    on_progress(match["step"], int(match["percent"]))
            else:
                said.append(line)
        output = process.stdout.read()
        if process.wait() != 0:
            raise GitError(arguments, "".join(said) + output)
        return output
