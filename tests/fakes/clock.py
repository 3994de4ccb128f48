"""A clock that stands still until a test moves it, so that half a minute takes no time."""


class Clock:
    """Seconds that a test adds to `now_s`."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
