"""What a server may be told."""

from dataclasses import dataclass

from vqnmt.errors import VqnmtError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Limits of a server and how it batches; checks itself."""

    batch_wait: float = 0.005
    """Seconds that a request waits for others where nothing is being translated."""
    batch: int = 32
    """Sentences that are translated at a time. While some are, those of other connections arrive:
    with as many as there are connections the model and the network would wait for each other."""
    queue: int = 2000
    """Sentences that may wait; a request above it is answered with 429."""
    timeout: float = 30.0
    """Seconds after which a request is answered with 503."""
    characters: int = 20_000
    """Characters of a request's texts."""
    body: int = 8 << 20
    """Bytes of a request."""
    api_keys: tuple[str, ...] = ()
    """If there are any, a request must have one of them."""
    origins: tuple[str, ...] = ()
    """Web pages of other origins that may call the server (CORS)."""

    def __post_init__(self) -> None:
        """Check the values."""
        for key in ("batch", "queue", "timeout", "characters", "body"):
            if not getattr(self, key) > 0:
                raise VqnmtError(f"{key} is {getattr(self, key)}: it must be above 0")
        if not 0 <= self.batch_wait <= 1:
            raise VqnmtError(f"batch_wait is {self.batch_wait}: it must be from 0 to 1 second")
        if not all(self.api_keys):
            raise VqnmtError("an API key is empty: remove the line")
