"""A system that takes HL7 v2 by MLLP: the `hl7` package's own server, which also parses."""

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

import hl7
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server


class MllpReceiver:
    """Keeps what it is sent and answers as told; a context manager."""

    def __init__(self, answer: str = "AA", *, tls: Any = None) -> None:
        self.answer = answer
        self.received: list[hl7.Message] = []
        self.port = 0
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        """Start to listen on a free port."""
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        options = {} if self._tls is None else {"ssl": self._tls}
        server = await start_hl7_server(
            self._take, host="127.0.0.1", port=0, encoding="utf-8", **options
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        async with server:
            await self._stopped.wait()

    def _stop(self) -> None:
        self._stopped.set()

    async def _take(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        try:
            while not writer.is_closing():
                message = await reader.readmessage()
                self.received.append(message)
                if self.answer == "silence":
                    break
                answer = message.create_ack(ack_code=self.answer)
                if self.answer == "other":
                    answer = message.create_ack(ack_code="AA")
                    answer.assign_field("another", "MSA", 1, 2)
                writer.writemessage(answer)
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()
