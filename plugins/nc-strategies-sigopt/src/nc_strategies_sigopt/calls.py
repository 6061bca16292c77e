"""Requests that survive a bad server: what failed is told apart, tried again within bounds, looked up before that."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity

from nc_strategies_sigopt.client import part, scrub

log = logging.getLogger("nc_strategies.sigopt")
T = TypeVar("T")
FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0
LOOK_AGAIN = 0.25
LONGEST_TEXT = 200
SAID_AFTER = 2.0
"""Seconds without an answer after which the wait is said: a hiccup that passes sooner needs no word."""


class ServerError(Exception):
    """The server did not do what it was asked.

    Args:
        status: Its HTTP status; 0 when there was none.
        text: What it said.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(f"{text} (status {status})" if status else text)


class Unavailable(ServerError):
    """No answer, or none of use: a later attempt may succeed."""


class TimedOut(Unavailable):
    """No answer in time: the server may still be about to do what it was asked."""


class Exhausted(ServerError):
    """The rate limit held for as long as the client itself tried again."""


class Denied(ServerError):
    """The token is missing, wrong or revoked."""


class Refusal(ServerError):
    """The request itself is wrong."""


class Calls:
    """Sends requests.

    Args:
        attempts: Attempts at each before it counts as failed.
        secret: The token, which no error text may show.
        settle: Seconds for which a request without an answer may yet take effect.
        patience: Seconds for which a request is tried again, however many attempts that takes.
        say: Told, in a sentence, that a wait has begun and that it has ended.
    """

    def __init__(
        self,
        attempts: int,
        secret: str | None = None,
        settle: float = 0.0,
        patience: float = 0.0,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self._attempts, self._secret, self._settle = attempts, secret, settle
        self._patience, self.say = patience, say
        self._said = False

    def __call__(self, what: str, send: Callable[[], T], recover: Callable[[], T | None] | None = None) -> T:
        """Send a request, again if need be.

        Args:
            what: What is asked, for the log.
            send: Sends it and reads the answer.
            recover: Finds what an attempt may have made although its answer was lost; called before another one.

        Raises:
            ServerError: it failed for good.
        """

        def log_failure(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            log.warning("SigOpt: %s failed: %s; trying again", what, error)
            if not self._said and time.monotonic() - begin >= SAID_AFTER:
                self._said = True
                longest = f"for up to {self._patience:.0f} s"
                self.say(f"the SigOpt server does not answer ({what}: {error}); trying again {longest}")

        late, begin = False, time.monotonic()

        def attempt(number: int) -> T:
            nonlocal late
            if number > 1 and recover is not None:
                found = self._look(recover, self._settle if late else 0.0)
                if found is not None:
                    return found
            late = False
            try:
                return self._once(send)
            except TimedOut:
                late = True
                raise

        retrying = tenacity.Retrying(
            stop=tenacity.stop_all(
                tenacity.stop_after_attempt(self._attempts), tenacity.stop_after_delay(self._patience)
            ),
            reraise=True,
            before_sleep=log_failure,
            wait=tenacity.wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            retry=tenacity.retry_if_exception_type(Unavailable),
        )
        for trying in retrying:
            with trying:
                found = attempt(trying.retry_state.attempt_number)
                if self._said:
                    self._said = False
                    self.say(f"the SigOpt server answers again, after {time.monotonic() - begin:.0f} s")
                return found
        raise AssertionError("unreachable")

    def _look(self, recover: Callable[[], T | None], seconds: float) -> T | None:
        end = time.monotonic() + seconds
        while True:
            found = self._once(recover)
            if found is not None or time.monotonic() >= end:
                return found
            time.sleep(min(LOOK_AGAIN, seconds))

    def _once(self, send: Callable[[], T]) -> T:
        errors = part("exception")
        # After a few errors in a row, the client sleeps for seconds in every call of the process.
        part("ratelimit").failed_status_rate_limit.clear()
        try:
            return send()
        except ServerError:
            raise
        except errors.ApiException as error:
            raise self._api_error(error.status_code, self._text(error.message)) from None
        except errors.ConnectionException as error:
            cause = getattr(error.__cause__, "args", None)
            late = isinstance(error.__cause__, TimeoutError | part("request_driver").requests.exceptions.Timeout)
            raise (TimedOut if late else Unavailable)(
                0, self._text(f"no connection: {cause[0] if cause else error.message}")
            ) from None
        except (errors.SigOptException, AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unavailable(0, self._text(f"the answer cannot be read: {error}")) from None

    @staticmethod
    def _api_error(status: int, text: str) -> ServerError:
        if status in (401, 403):
            return Denied(status, text)
        if status == 429:
            return Exhausted(status, text)
        return (Unavailable if status >= 500 or status == 408 else Refusal)(status, text)

    def _text(self, text: Any) -> str:
        return scrub(str(text), self._secret)[:LONGEST_TEXT]


def checked(answer: Any, *names: str) -> Any:
    """An answer that has what it must have: the client takes any text with status 200 for a success.

    Raises:
        Unavailable: it has not.
    """
    for name in names:
        if answer is None or getattr(answer, name, None) is None:
            raise Unavailable(0, f"an answer without {name}: not a SigOpt server's")
    return answer
