"""The workers' kit: publish a sync's events in one line each, and never let the sync suffer from them.

The only code that writes to the stream. It is given its Redis client, imports gateway.schema alone, and is left out of
the container image.

    async with AsyncProducer(redis) as producer:
        async with producer.operation("op-1", "proj-1", direction="to_github") as op:
            await op.progress(20, "Reading project files…", step="read")
            op.result(files_changed=3, commit_sha="1f2e…")
"""

from gateway.producer.asynchronous import AsyncOperation, AsyncProducer
from gateway.producer.core import Trim
from gateway.producer.errors import github_error
from gateway.producer.synchronous import Operation, Producer
from gateway.producer.text import redact

__all__ = ["AsyncOperation", "AsyncProducer", "Operation", "Producer", "Trim", "github_error", "redact"]
