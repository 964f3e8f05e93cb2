# SPDX-License-Identifier: Apache-2.0
"""What all routes of the management API share."""

from typing import Annotated

from fastapi import Depends

from fleet_server.api.access_control import read_body

PREFIX = "/api/v1"
JSON, BYTES = "application/json", "application/octet-stream"
Body = Annotated[bytes, Depends(read_body)]
