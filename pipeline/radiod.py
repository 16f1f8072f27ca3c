"""What radiod says of a channel, and asking it for one; both in radiod's TLV format.

Status. radiod multicasts a status packet per channel each 0.5 s: which sample rate and
encoding are in force (payload types are not reliable) and the pair (GPS_TIME,
RTP_TIMESNAP) that ties RTP timestamps to UTC. ka9q-python decodes the fields; here they
are judged: what cannot be true is None, and no datagram whatever raises.

Control. Any command that names an unknown SSRC makes radiod create a channel from its
template, and any field changes a channel that others may be using. So a channel that
can be heard is never sent anything, unless this program created it, which it knows by
the COMMAND_TAG that radiod repeats in each status. A channel of ours has a LIFETIME that
is renewed: it goes away by itself when nobody records it any more.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from ka9q.control import encode_double, encode_eol, encode_int, encode_socket, encode_string
from ka9q.status import ChannelStatus as Ka9qStatus
from ka9q.status import decode_status_packet
from ka9q.types import CMD, Encoding, StatusType

from pipeline.addresses import RTP_PORT, STATUS_PORT, multicast_endpoint
from pipeline.config import Channel, Radiod
from pipeline.records import UNKNOWN_NS, ChannelRecord
from pipeline.sockets import SocketError, resolve_group, sender

log = logging.getLogger(__name__)
# ka9q-python warns of each odd field; a stream of hostile datagrams must not fill the journal.
logging.getLogger("ka9q").setLevel(logging.ERROR)

GPS_EPOCH_S = 315_964_800  # 1980-01-06 as UNIX time
# radiod adds this constant (ka9q-radio misc.h, GPS_UTC_OFFSET), so it is right for its stamps whatever IERS decides.
GPS_UTC_OFFSET_S = 18
_YEAR_2000_NS = 946_684_800 * 10**9
_YEAR_2100_NS = 4_102_444_800 * 10**9
_MAX_RATE_HZ = 10_000_000
_MAX_FREQUENCY_HZ = 1e11
# An IQ channel's status has about 280 bytes; the long ones carry spectra and only cost time.
MAX_STATUS_BYTES = 2048
_MAX_TEXT = 200
ALL_CHANNELS = 0xFFFFFFFF

Detail = dict[str, int | float | str | bool]

_DETAIL = (
    "description", "preset", "demod_type", "frequency", "first_lo", "second_lo", "shift", "doppler", "doppler_rate",
    "low_edge", "high_edge", "kaiser_beta", "filter_blocksize", "filter_fir_length", "filter_drops", "noise_bw",
    "snr_squelch_enable", "squelch_open", "squelch_close", "agc_enable", "gain", "headroom", "agc_hangtime",
    "agc_recovery_rate", "agc_threshold", "output_level", "baseband_power", "noise_density", "envelope",
    "independent_sideband", "output_samprate", "output_channels", "output_encoding", "output_samples",
    "output_data_packets", "output_errors", "output_ttl", "maxdelay", "rtp_pt", "status_interval", "command_tag",
    "cmd_cnt", "lifetime", "frontend.input_samprate", "frontend.input_samples", "frontend.ad_bits_per_sample",
    "frontend.ad_over", "frontend.samples_since_over", "frontend.isreal", "frontend.calibrate", "frontend.lock",
    "frontend.fe_low_edge", "frontend.fe_high_edge", "frontend.lna_gain", "frontend.mixer_gain", "frontend.if_gain",
    "frontend.rf_gain", "frontend.rf_atten", "frontend.rf_agc", "frontend.rf_level_cal", "frontend.if_power",
)  # fmt: skip
_DETAIL_FIELDS = [(path.rpartition(".")[2], attrgetter(path)) for path in _DETAIL]


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """One status packet of one channel; None = not stated, or not to be believed."""

    ssrc: int
    gps_time_utc_ns: int | None  # when the packet was built by radiod's clock, UNIX UTC ns
    rtp_timesnap: int | None  # RTP timestamp of the next packet to be sent
    sample_rate_hz: int | None
    encoding: str | None  # ka9q's name; others than those of stream.rtp cannot be recorded
    encoding_number: int | None
    output_channels: int | None
    frequency_hz: float | None
    preset: str | None
    filter_drops: int | None
    output_packets: int | None
    command_tag: int | None
    lifetime_blocks: int | None  # 0 = for ever
    detail: Detail
    data_address: str | None = None  # `group:port` that the samples go to

    @property
    def is_ours(self) -> bool:
        """True when the channel's last command came from this program."""
        return self.command_tag == COMMAND_TAG


def gps_to_utc_ns(gps_ns: int) -> int:
    """UNIX UTC ns of radiod's GPS_TIME: ns since 1980-01-06, leap seconds included (ka9q-radio misc.c, gps_time_ns)."""
    return gps_ns + (GPS_EPOCH_S - GPS_UTC_OFFSET_S) * 10**9


def decode_status(datagram: bytes) -> ChannelStatus | None:
    """The status in a datagram; None for commands, garbage and packets that name no channel. Never raises."""
    if len(datagram) > MAX_STATUS_BYTES:
        return None
    try:
        raw = decode_status_packet(datagram)
    # The decoder's own, struct's and numpy's errors, whatever a later version adds: all mean garbage.
    except Exception:
        return None
    if raw is None:
        return None
    ssrc = _within(raw.output_ssrc, 0, 0xFFFFFFFF)
    if ssrc is None:
        return None
    return ChannelStatus(
        ssrc=ssrc,
        gps_time_utc_ns=believed_utc_ns(raw.gps_time),
        # Zero is a field without a value (radiod's first status after a start): 0, and not absent.
        rtp_timesnap=_within(raw.rtp_timesnap, 0, 0xFFFFFFFF),
        sample_rate_hz=believed_rate(raw.output_samprate),
        encoding=None if raw.output_encoding is None else raw.encoding_name,
        encoding_number=raw.output_encoding,
        output_channels=_within(raw.output_channels, 1, 255),
        frequency_hz=_frequency(raw.frequency),
        preset=None if raw.preset is None else _text(raw.preset),
        filter_drops=raw.filter_drops,
        output_packets=raw.output_data_packets,
        command_tag=raw.command_tag,
        lifetime_blocks=raw.lifetime,
        detail=_detail(raw),
        data_address=_endpoint(raw.output_data_dest_socket),
    )


def believed_utc_ns(gps_ns: int | None) -> int | None:
    """UNIX UTC ns of a GPS_TIME; None outside 2000 to 2100."""
    return _within(None if gps_ns is None else gps_to_utc_ns(gps_ns), _YEAR_2000_NS, _YEAR_2100_NS)


def believed_rate(rate_hz: int | None) -> int | None:
    """A sample rate that there can be."""
    return _within(rate_hz, 1, _MAX_RATE_HZ)


def _within(value: int | None, low: int, high: int) -> int | None:
    return value if value is not None and low <= value <= high else None


def _frequency(value: float | None) -> float | None:
    return value if value is not None and 0.0 <= value <= _MAX_FREQUENCY_HZ else None


def _text(value: str) -> str:
    return "".join(c for c in value[:_MAX_TEXT] if c.isprintable())


def _endpoint(raw: dict[str, Any] | None) -> str | None:
    """`group:port` of an IPv4 socket address as ka9q-python decodes it."""
    try:
        return None if raw is None else multicast_endpoint(f"{raw['address']}:{raw['port']}", RTP_PORT)
    except (KeyError, ValueError):
        return None


def poll_command() -> bytes:
    """The command that makes radiod report all its channels and changes none (ka9q-radio radio_status.c)."""
    command = bytearray([CMD])
    encode_int(command, StatusType.OUTPUT_SSRC, ALL_CHANNELS)
    encode_int(command, StatusType.COMMAND_TAG, COMMAND_TAG)
    encode_eol(command)
    return bytes(command)


def _detail(raw: Ka9qStatus) -> Detail:
    """What is worth keeping beside the samples: finite JSON values, ka9q-python's names."""
    found: Detail = {}
    for name, get in _DETAIL_FIELDS:
        value = get(raw)
        if isinstance(value, str):
            found[name] = _text(value)
        elif value is not None and math.isfinite(value):
            found[name] = value
    return found


# Repeated by radiod in every status of a channel until somebody else commands it: "GRAP".
COMMAND_TAG = 0x47524150
# Blocks of 20 ms: a channel of ours ends 60 s after its last renewal, longer than a restart takes.
LIFETIME_BLOCKS = 3000
RENEWAL_NS = 15 * 10**9


def create_commands(channel: Channel, group: str, port: int) -> tuple[bytes, bytes]:
    """The commands that make radiod send `channel` to `group`:`port`.

    PRESET comes first, since radiod applies it first and it overwrites the rest. The
    encoding is sent again by itself: older radiods ignore it in the creating command
    (ka9q-python, RadiodControl.create_channel).
    """
    encoding = getattr(Encoding, channel.encoding)
    first = bytearray([CMD])
    encode_string(first, StatusType.PRESET, channel.preset)
    encode_double(first, StatusType.RADIO_FREQUENCY, channel.frequency_hz)
    encode_int(first, StatusType.OUTPUT_SAMPRATE, channel.sample_rate_hz)
    encode_int(first, StatusType.OUTPUT_ENCODING, encoding)
    # Fading is what is measured; a gain that follows it would remove it from the record.
    encode_int(first, StatusType.AGC_ENABLE, 0)
    encode_socket(first, StatusType.OUTPUT_DATA_DEST_SOCKET, group, port)
    second = bytearray([CMD])
    encode_int(second, StatusType.OUTPUT_ENCODING, encoding)
    return _addressed(first, channel.ssrc), _addressed(second, channel.ssrc)


def renew_command(ssrc: int) -> bytes:
    """The command that gives a channel of ours its full LIFETIME again and changes nothing else."""
    return _addressed(bytearray([CMD]), ssrc)


def _addressed(command: bytearray, ssrc: int) -> bytes:
    encode_int(command, StatusType.OUTPUT_SSRC, ssrc)
    encode_int(command, StatusType.COMMAND_TAG, COMMAND_TAG)
    encode_int(command, StatusType.LIFETIME, LIFETIME_BLOCKS)
    encode_eol(command)
    return bytes(command)


class Action(enum.Enum):
    """What radiod has to be told about one channel."""

    CREATE = enum.auto()  # nothing of it can be heard
    RENEW = enum.auto()  # it is ours and would end


class Keeper:
    """Decides, for one channel, when radiod is told what; pure, time is an argument."""

    NEVER_HEARD_NS = 2 * 10**9  # four status intervals of radiod
    LOST_NS = 5 * 10**9  # longer than a retune or a stall; a restart takes 5 to 7 s and needs the request anyway
    ALIVE_NS = 1_500_000_000  # a renewal for a channel that just died would create a wrong one
    HEARTBEAT_NS = 3 * 10**9  # a record older than this tells of its worker, not of radiod
    BACKOFF_MAX_S = 60

    def __init__(self) -> None:
        self._listening_since_ns: int | None = None
        self._tried_ns = self._next_try_ns = UNKNOWN_NS
        self._renewed_ns = UNKNOWN_NS
        self._created = False
        self.attempts = 0

    def decide(self, now_ns: int, record: ChannelRecord) -> Action | None:
        """The command due at `now_ns`, taken as sent; None when there is nothing to say."""
        if now_ns - record.heartbeat_monotonic_ns > self.HEARTBEAT_NS:
            self._listening_since_ns = None
            return None
        if self._listening_since_ns is None:
            self._listening_since_ns = now_ns
        since_ns = max(self._listening_since_ns, record.started_monotonic_ns)
        heard_ns = max(record.last_packet_monotonic_ns, record.last_status_monotonic_ns)
        if now_ns - heard_ns <= self.LOST_NS:
            return self._heard(now_ns, heard_ns, bool(record.owned))
        patience_ns = self.LOST_NS if heard_ns > since_ns else self.NEVER_HEARD_NS
        if now_ns - max(heard_ns, since_ns) <= patience_ns or now_ns < self._next_try_ns:
            return None
        self.attempts += 1
        self._next_try_ns = now_ns + self.backoff_s * 10**9
        self._tried_ns = self._renewed_ns = now_ns
        self._created = True
        return Action.CREATE

    @property
    def backoff_s(self) -> int:
        """Time from the newest attempt to the next: 1, 2, 4 ... 60 s."""
        return int(min(2 ** min(self.attempts - 1, 6), self.BACKOFF_MAX_S))

    def _heard(self, now_ns: int, heard_ns: int, owned: bool) -> Action | None:
        # radiod's answer to a request is no success yet; what is heard for longer is.
        if heard_ns - self._tried_ns > self.LOST_NS:
            self.attempts, self._next_try_ns = 0, now_ns
        ours = self._created or owned
        if not ours or now_ns - self._renewed_ns < RENEWAL_NS or now_ns - heard_ns > self.ALIVE_NS:
            return None
        self._renewed_ns = now_ns
        return Action.RENEW


class Control:
    """Keeps radiod sending the configured channels; one in the whole instance, in the supervisor.

    Does nothing without `radiod.status_address` or with `create_channels = false`. Raises
    SocketError when the interface does not exist.
    """

    def __init__(self, radiod: Radiod) -> None:
        self._address = radiod.status_address if radiod.create_channels else None
        self._socket = sender(radiod.interface) if self._address else None
        self._keepers: dict[tuple[int, str], Keeper] = {}

    def poll(self, now_monotonic_ns: int, channels: Sequence[tuple[Channel, ChannelRecord]]) -> None:
        """Look at every channel and send what is due; call about once a second.

        Never waits for radiod. A control group given by name is resolved when it is first
        needed, which may take the resolver's time.
        """
        if self._socket is None:
            return
        wanted = {(channel.ssrc, channel.data_address) for channel, _ in channels}
        self._keepers = {key: keeper for key, keeper in self._keepers.items() if key in wanted}
        for channel, record in channels:
            keeper = self._keepers.setdefault((channel.ssrc, channel.data_address), Keeper())
            action = keeper.decide(now_monotonic_ns, record)
            if action is not None:
                self._act(action, channel, keeper)

    def _act(self, action: Action, channel: Channel, keeper: Keeper) -> None:
        assert self._socket is not None and self._address is not None
        try:
            target = resolve_group(self._address, STATUS_PORT)
            if action is Action.RENEW:
                commands: tuple[bytes, ...] = (renew_command(channel.ssrc),)
            else:
                commands = create_commands(channel, *resolve_group(channel.data_address, RTP_PORT))
            for command in commands:
                self._socket.sendto(command, target)
        except (SocketError, OSError) as error:
            log.warning("channel %s: radiod cannot be asked for it: %s", channel.name, error)
            return
        if action is Action.CREATE:
            log.warning(
                "channel %s: not heard from radiod; asked %s:%d for ssrc %d (attempt %d, next in %d s)",
                channel.name, *target, channel.ssrc, keeper.attempts, keeper.backoff_s,
            )  # fmt: skip

    def close(self) -> None:
        """Close the socket; channels of ours end when their LIFETIME has run down."""
        if self._socket is not None:
            self._socket.close()
