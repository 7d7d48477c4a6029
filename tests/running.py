"""The service in a thread of the test's own process, so that a test can choose its store and who may call."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from models.scorer import Scorer
from serving import Settings, create_app
from serving.access import Access
from serving.store import Store


@contextmanager
def running(
    scorer: Scorer, store: Store, access: Access | None = None, settings: Settings | None = None
) -> Iterator[str]:
    """Serves on a port that is free; gives the address."""
    app = create_app(scorer, store, settings, access)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", proxy_headers=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
