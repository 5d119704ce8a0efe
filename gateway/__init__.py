"""The SSE gateway: reads one Redis stream and fans its events out to browsers' EventSource."""

__version__ = "0.1.0"
