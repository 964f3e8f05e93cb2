# SPDX-License-Identifier: Apache-2.0
"""What a user may set for one device: every setting with its bounds, its default and its meaning.

The meanings are the schema's descriptions and the reference page's; units stand in the names.
"""

from typing import Annotated, Literal

from msgspec import Meta

from device_agent.core.settings.accelerator_settings import AcceleratorSettings
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.interface import Declaration
from edgefleet.contracts.manifest import Fact, Natural, Share

#: Seconds, up to a week: more is a typing error, and less attention than a fleet needs.
Period = Annotated[float, Meta(gt=0.0, le=604_800.0)]
#: Seconds, up to ten years.
LongPeriod = Annotated[int, Meta(ge=0, le=315_360_000)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class CaptureSettings(Fact, frozen=True, kw_only=True):
    """Which inputs of which a model was unsure are kept for the server."""

    confidence_below: Annotated[Share, Meta(description="An answer with less confidence than this is unsure")] = 0.5
    share: Annotated[Share, Meta(description="Share of unsure answers whose inputs are captured")] = 0.1
    bytes_per_day: Annotated[Natural, Meta(description="Most that is captured in a day")] = 4 << 20
    redaction: Annotated[
        Text | None,
        Meta(description="A Python function `module:function` that takes out what must not leave the device"),
    ] = None


class AgentSettings(Fact, frozen=True, kw_only=True):
    """All settings of one device; periods in seconds, divided by ``--time-scale`` like the policy's durations."""

    poll_s: Annotated[
        Period,
        Meta(
            description="Seconds between two looks at the director, with jitter. A hint over MQTT makes the next look "
            "come sooner"
        ),
    ] = 300.0
    telemetry_s: Annotated[Period, Meta(description="Seconds that one telemetry message sums up")] = 60.0
    broker: Annotated[BrokerAddress | None, Meta(description="A broker other than the one that enrolment named")] = None
    proxy: Annotated[
        Text | None,
        Meta(
            description="An HTTP proxy on the way to the server and the broker, as `http://HOST:PORT`; otherwise what "
            "`HTTPS_PROXY`, `MQTT_PROXY`, `ALL_PROXY` and `NO_PROXY` say"
        ),
    ] = None
    proxy_credentials: Annotated[
        Text | None, Meta(description="A file with the proxy's `NAME:PASSWORD`, which may stand nowhere else")
    ] = None
    factory_model: Annotated[Text | None, Meta(description="A bundle that answers in safe mode")] = None
    socket: Annotated[
        Text | None,
        Meta(description="The Unix socket for applications; otherwise `inference.sock` in the data folder"),
    ] = None
    compare_share: Annotated[
        Share, Meta(description="Share of live inputs that both models see during shadow and trial")
    ] = 0.5
    swap: Annotated[
        Literal["resident", "cold"],
        Meta(
            description="Whether a new model is loaded beside the one that it replaces, and a spare worker waits while "
            "it is tried, or requests wait because the board has room for one only"
        ),
    ] = "resident"
    outbox_bytes: Annotated[
        int,
        Meta(
            ge=65_536,
            le=1 << 40,
            description="Size of the outbox; beyond it the oldest messages are replaced by gap records, telemetry "
            "first",
        ),
    ] = 8 << 20
    outbox_age_s: Annotated[
        LongPeriod,
        Meta(description="Messages that wait for longer than this are replaced by a gap record; counts running time"),
    ] = 7_776_000
    outbox_keep_acknowledged_s: Annotated[
        LongPeriod,
        Meta(
            description="How long messages that the server has are kept for a server that is restored from a backup, "
            "where there is room; counts running time",
        ),
    ] = 259_200
    reserve_bytes: Annotated[Natural, Meta(description="Disk space that is kept free for a way back")] = 4 << 20
    admission_deadline_s: Annotated[Period, Meta(description="Longest time that the checks before shadow may take")] = (
        120.0
    )
    watchdog_s: Annotated[Period, Meta(description="A worker that is silent for this long is restarted")] = 20.0
    threads: Annotated[int, Meta(ge=1, le=256, description="Threads of the interpreter")] = 1
    worker_memory_bytes: Annotated[
        Natural,
        Meta(
            description="Memory that the worker may take where the system delegates a control group; 0: no limit. "
            "What exceeds it is ended as the model's fault"
        ),
    ] = 0
    capture_bytes: Annotated[
        Natural,
        Meta(
            description="Disk space for captured inputs of which the model was unsure; 0: none are ever captured, "
            "whatever the server asks"
        ),
    ] = 0
    capture: Annotated[
        CaptureSettings | None,
        Meta(description="Which inputs are captured, where `capture_bytes` gives room; none: no inputs"),
    ] = None
    accelerator: Annotated[
        AcceleratorSettings | None,
        Meta(description="The board's accelerator, which models lose for the processor when it fails; none: processor"),
    ] = None
    applications: Annotated[
        tuple[Declaration, ...],
        Meta(
            max_length=64,
            description="What applications on this device were built for; a release that offers another interface is "
            "refused before it runs",
        ),
    ] = ()
