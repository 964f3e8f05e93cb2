# SPDX-License-Identifier: Apache-2.0
"""The two listeners: management (FastAPI) and devices (Starlette)."""
