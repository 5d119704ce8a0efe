"""The command line: --help, --version, or run by the environment. Exit status: 0 drained, 1 failed, 2 bad settings."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import gateway

try:
    from gateway import config, logs
    from gateway.config import Config, ConfigError
    from gateway.reader import NotAStream
    from gateway.server import serve
except ModuleNotFoundError as error:
    sys.exit(f"sse-gateway can't start: {error}. The gateway itself is: pip install 'sse-gateway[server]'")

USAGE = f"""\
usage: python -m gateway [--help | --version]

Fans the events of one Redis stream out to browsers' EventSource. Settings are environment variables:

{config.help()}
"""


def main(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"sse-gateway {gateway.__version__}")
        return 0
    if arguments:
        print(USAGE, end="", file=sys.stdout if arguments in (["--help"], ["-h"]) else sys.stderr)
        return 0 if arguments in (["--help"], ["-h"]) else 2
    try:
        settings = Config.load(os.environ)
        logs.setup(settings.log_level, settings.log_format)
        for name in config.unknown(os.environ):
            logging.getLogger("gateway").warning("unknown variable %s is ignored; see python -m gateway --help", name)
        _runner()(serve(settings))
    except ConfigError as error:
        print(f"sse-gateway can't start:\n{error}", file=sys.stderr)
        return 2
    except (OSError, NotAStream) as error:
        print(f"sse-gateway can't start: {error}", file=sys.stderr)
        return 1
    return 0


def _runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def cli() -> None:
    """What the console script `sse-gateway` calls."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    cli()
