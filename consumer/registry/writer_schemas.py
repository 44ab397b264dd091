"""Writers' schemas by their id, as the preparation threads ask for them: bounded, and quick during an outage."""

from __future__ import annotations

import threading
from typing import Any

from consumer.clock import Clock, monotonic
from consumer.registry.schema_registry import SchemaRegistry
from schemas import SchemaId
from schemas.codecs import DependencyUnavailable
from schemas.contracts import UnusableSchema

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
REFUSED_FOR_S = 10.0
_REFUSALS_KEPT = 1000


class WriterSchemas:
    """A `schemas.WriterSchema`: asks a registry for each id, once; the caller keeps what it gets.

    An id that the registry does not have, or whose schema is refused, is remembered for ten seconds, so that a
    publisher that writes nothing else does not cost a request for each record. After a call that was not answered the
    next one is made half a second later, then after twice as long each time, ten seconds at most: records that need no
    registry do not wait behind those that do.
    """

    def __init__(self, registry: SchemaRegistry, clock: Clock = monotonic) -> None:
        self._registry, self._clock, self._lock = registry, clock, threading.Lock()
        self._refusals: dict[SchemaId, tuple[float, LookupError | UnusableSchema]] = {}
        self._outage: DependencyUnavailable | None = None
        self._ask_again_at = 0.0
        self._pause_s = FIRST_PAUSE_S

    def __call__(self, schema_id: SchemaId) -> dict[str, Any]:
        """The schema as parsed JSON.

        Raises:
            LookupError: the registry has no such id.
            UnusableSchema: it is not an Avro schema that stands alone.
            DependencyUnavailable: the registry does not answer.
        """
        self._raise_known(schema_id)
        try:
            found = self._registry.schema(schema_id)
        except (LookupError, UnusableSchema) as error:
            with self._lock:
                self._answered()
                self._refusals[schema_id] = (self._clock() + REFUSED_FOR_S, error)
                if len(self._refusals) > _REFUSALS_KEPT:
                    del self._refusals[next(iter(self._refusals))]
            raise
        except DependencyUnavailable as error:
            with self._lock:
                self._outage, self._ask_again_at = error, self._clock() + self._pause_s
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            raise
        with self._lock:
            self._answered()
        return found

    def _raise_known(self, schema_id: SchemaId) -> None:
        with self._lock:
            until, refusal = self._refusals.get(schema_id, (0.0, None))
            if refusal is not None and self._clock() < until:
                raise type(refusal)(*refusal.args)
            self._refusals.pop(schema_id, None)
            if self._outage is not None and self._clock() < self._ask_again_at:
                raise DependencyUnavailable(*self._outage.args)

    def _answered(self) -> None:
        self._outage, self._pause_s = None, FIRST_PAUSE_S
