"""Exit 0 when a role in this container said within the last minute that it is alive."""

import socket
import sys
from datetime import timedelta

from service.core.clock import SystemClock
from service.core.settings import load_settings
from service.records import heartbeats
from service.records.database import Records

SEEN_WITHIN = timedelta(minutes=1)

records = Records(load_settings().database_url)
with records.reading() as connection:
    alive = heartbeats.seen_since(connection, SystemClock().now() - SEEN_WITHIN)
records.close()
here = socket.gethostname()
sys.exit(0 if any(here in heartbeat.process for heartbeat in alive) else 1)
