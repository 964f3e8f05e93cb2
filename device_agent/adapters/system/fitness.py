# SPDX-License-Identifier: Apache-2.0
"""Whether an ordered bundle can run on this board, asked before anything is downloaded."""

from device_agent.errors import TrustRefusedError
from edgefleet.contracts.enrolment import HardwareFacts
from edgefleet.contracts.fit import misfits, read_needs


def check_fit(custom: object, path: str, facts: HardwareFacts) -> None:
    """Refuse a target whose needs (in its signed ``custom`` field) this board does not meet.

    Raises:
        TrustRefusedError: with the cause ``does-not-fit``; the message names each fact and the need.
        TrustError: the needs are malformed.
    """
    found = misfits(read_needs(custom), facts)
    if found:
        raise TrustRefusedError(
            "does-not-fit",
            f"'{path.rpartition('/')[2]}' cannot run on this board: {'; '.join(found)}",
            hint="nothing is downloaded and what runs goes on; order a release that is made for this board",
        )
