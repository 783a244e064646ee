"""Settings of a server."""

from dataclasses import dataclass
from typing import Annotated

from vqnmt.errors import VqnmtError
from vqnmt.settings import PositiveFloat, PositiveInt, between, check


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Limits of a server and how it batches; checks itself."""

    batch_wait: Annotated[float, between(0, 1, " second")] = 0.005
    """Seconds that a request waits for others where nothing is being translated."""
    batch: PositiveInt = 32
    """Sentences that are translated at a time. While some are, those of other connections arrive:
    with as many as there are connections the model and the network would wait for each other."""
    queue: PositiveInt = 2000
    """Sentences that may wait; a request above it is answered with 429."""
    timeout: PositiveFloat = 30.0
    """Seconds after which a request is answered with 503."""
    characters: PositiveInt = 20_000
    """Characters of a request's texts."""
    body: PositiveInt = 8 << 20
    """Bytes of a request."""
    api_keys: tuple[str, ...] = ()
    """If there are any, a request must have one of them."""
    origins: tuple[str, ...] = ()
    """Web pages of other origins that may call the server (CORS)."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            VqnmtError: Names the setting, its value and the values allowed.
        """
        check(self)
        if not all(self.api_keys):
            raise VqnmtError("an API key is empty: remove the line")
