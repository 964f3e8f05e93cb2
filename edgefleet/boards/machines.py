# SPDX-License-Identifier: Apache-2.0
"""What QEMU's machines have beside processor and memory: the serial ports of each."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgefleet.contracts.profile import Profile


@dataclass(frozen=True)
class Uart:
    """The first serial port: the driver that fits it, its registers' address, and its receive interrupt."""

    driver: str
    address: int
    interrupt: int


#: QEMU: hw/arm/mps2.c, hw/arm/mps2-tz.c (the secure world's aliases), hw/riscv/virt.c.
UARTS: Mapping[str, Uart] = {
    "mps2-an385": Uart("CMSDK", 0x4000_4000, 0),
    "mps2-an386": Uart("CMSDK", 0x4000_4000, 0),
    "mps2-an500": Uart("CMSDK", 0x4000_4000, 0),
    "mps2-an505": Uart("CMSDK", 0x5020_0000, 32),
    "mps3-an547": Uart("CMSDK", 0x5930_3000, 33),
    "virt": Uart("NS16550", 0x1000_0000, 10),
}


def uart_defines(profile: Profile) -> Mapping[str, str]:
    """Return what ``uart.c`` must be told; nothing for a board whose port is not known here."""
    uart = UARTS.get(profile.emulator.machine) if profile.emulator else None
    if uart is None:
        return {}
    return {f"UART_{uart.driver}": f"{uart.address:#x}", "UART_INTERRUPT": str(uart.interrupt)}
