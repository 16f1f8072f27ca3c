"""The configuration: what is accepted, and how everything that is wrong is told at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import EXIT_CONFIG
from pipeline.config import Channel, Config, ConfigError, Ntp, Server, Thresholds, load_config, parse_config
from pipeline.configfile import ConfigMissing

CHANNEL = '[[channels]]\nname = "WWV 10 MHz"\nfrequency_hz = 10_000_000\n'


def faults(text: str, **options: Any) -> list[str]:
    """The lines an operator gets for `text`, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, **options)
    return [str(fault) for fault in caught.value.faults]


def test_one_channel_is_enough_and_takes_every_default() -> None:
    config = parse_config(CHANNEL)
    channel = Channel(name="WWV 10 MHz", frequency_hz=10_000_000.0, ssrc=10_000_000)
    assert config == Config(channels=(channel,))
    assert channel.id == "WWV_10_MHz"


def test_every_kind_of_value_arrives() -> None:
    config = parse_config(
        """
        [station]
        callsign = "AC0G"
        latitude = 38
        [recorder]
        data_dir = "/data"
        storage = "int16"
        [radiod]
        status_address = "bee1-status.local"
        data_address = "239.1.2.3"
        source_address = "192.168.1.10"
        create_channels = false
        [ntp]
        sources = ["servers"]
        retry_delays_s = [1, 2.5]
        [logging]
        level = "debug"
        [[channels]]
        name = "A"
        frequency_hz = 5e6
        ssrc = 5000
        sample_rate_hz = 24_000
        encoding = "S16LE"
        stations = ["WWV", "WWVH"]
        [[channels]]
        name = "B"
        frequency_hz = 3_330_000
        data_address = "239.9.9.9:6000"
        enabled = false
        """
    )
    assert (config.station.callsign, config.station.latitude) == ("AC0G", 38.0)
    assert (config.recorder.data_dir, config.recorder.storage) == (Path("/data"), "int16")
    assert config.radiod.status_address == "bee1-status.local:5006"
    assert (config.radiod.data_address, config.radiod.source_address) == ("239.1.2.3:5004", "192.168.1.10")
    assert config.radiod.create_channels is False
    assert config.ntp == replace(Ntp(), sources=("servers",), retry_delays_s=(1.0, 2.5))
    assert config.logging.level == "DEBUG"
    first, second = config.channels
    assert first == Channel("A", 5e6, 5000, 24_000, "iq", "S16LE", "239.1.2.3:5004", True, ("WWV", "WWVH"))
    assert (second.ssrc, second.data_address) == (3_330_000, "239.9.9.9:6000")
    assert config.enabled_channels == (first,)


@pytest.mark.parametrize(
    ("entry", "server"),
    [
        ('"time.example"', Server("time.example")),
        ('"time.example:1123"', Server("time.example", 1123)),
        ('"192.0.2.1"', Server("192.0.2.1")),
        ('"2001:db8::1"', Server("2001:db8::1")),
        ('"[2001:db8::1]:1123"', Server("2001:db8::1", 1123)),
        ('{ address = "192.0.2.1:1123", lan = true }', Server("192.0.2.1", 1123, True)),
        ('{ address = "gps", port = 1123 }', Server("gps", 1123)),
    ],
)
def test_server_forms(entry: str, server: Server) -> None:
    assert parse_config(f"[ntp]\nservers = [{entry}]\n{CHANNEL}").ntp.servers == (server,)


@pytest.mark.parametrize("server", [Server("h"), Server("h", 1), Server("::1"), Server("::1", 1)])
def test_a_server_is_shown_as_it_may_be_written(server: Server) -> None:
    assert parse_config({"ntp": {"servers": [str(server)]}}, need_channels=False).ntp.servers == (server,)


def test_part_of_a_nested_table_keeps_the_other_defaults() -> None:
    config = parse_config("[ntp.relaxed]\nmin_agree = 1\n" + CHANNEL)
    assert config.ntp.relaxed == Thresholds(max_delay_ms=1500.0, max_distance_ms=1500.0, min_agree=1)


def test_all_faults_at_once_each_with_key_value_and_what_is_allowed() -> None:
    text = """
        [recorder]
        instnce = "x"
        compression_level = "2"
        [ntp]
        parallel = 1
        sources = ["chronyd", "gps"]
        [[channels]]
        name = "A"
        frequency_hz = -1
        [[channels]]
        frequency_hz = 10e6
        encoding = "S16XX"
        [[channels]]
        name = "C"
        frequency_hz = 5e6
        sample_rate_hz = 16e3
        """
    assert faults(text) == [
        'recorder.instnce = "x": unknown key; did you mean instance?',
        'recorder.compression_level = "2": must be a whole number',
        'ntp.sources[1] = "gps": must be one of chronyd, ntpd, servers, chronyc, ntpq',
        "ntp.parallel = 1: must be true or false",
        "channels[0].frequency_hz = -1: must be more than 0",
        "channels[1].name: is missing",
        'channels[1].encoding = "S16XX": must be one of S16BE, S16LE, F32LE, F32BE, F16LE, F16BE',
        "channels[2].sample_rate_hz = 16000.0: must be a whole number",
    ]


def test_the_error_names_the_file_in_every_line_and_exits_78() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("[recorder]\na = 1\nb = 2\n" + CHANNEL, Path("/etc/x.toml"))
    assert caught.value.exit_code == EXIT_CONFIG == 78
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("/etc/x.toml: recorder.") for line in lines)


@pytest.mark.parametrize(
    ("section", "line", "allowed"),
    [
        ("station", "latitude = 91", "must be from -90 to 90"),
        ("station", "longitude = inf", "must be a finite number"),
        ("station", 'callsign = "a\\nb"', "must be one line of printable text"),
        ("recorder", "late_packet_grace_s = nan", "must be a finite number"),
        ("recorder", "late_packet_grace_s = -0.1", "must be from 0 to 30"),
        ("recorder", "retention_days = true", "must be a whole number"),
        ("recorder", 'storage = "int8"', "must be one of complex64, int16"),
        ("recorder", 'data_dir = ""', "must name a folder"),
        ("recorder", 'instance = "../x"', "must be 1 to 32 letters, digits and _ . -"),
        ("recorder", 'instance = ".x"', "must be 1 to 32 letters, digits and _ . -"),
        ("radiod", 'data_address = "192.168.1.1:5004"', "must be a multicast IPv4 address"),
        ("radiod", 'data_address = "239.1.2.256"', "neither an address nor a host name"),
        ("radiod", 'data_address = "239.1.2.3:0"', "port '0' must be a number from 1 to 65535"),
        ("radiod", 'status_address = "ff02::1"', "must be a multicast IPv4 address"),
        ("radiod", 'source_address = "radio"', "must be an IPv4 address"),
        ("radiod", 'interface = ""', "must be an interface name or one of this host's addresses"),
        ("radiod", "chain_delay_ns = 99999999999", "must be from -1000000000 to 1000000000"),
        ("ntp", 'servers = "time.example"', "must be a list"),
        ("ntp", 'servers = ["bad host"]', "neither an address nor a host name"),
        ("ntp", 'servers = ["h:99999"]', "must be a number from 1 to 65535"),
        ("ntp", "servers = [{ lan = true }]", "is missing"),
        ("ntp", "servers = [7]", 'must be "host", "host:port" or'),
        ("ntp", "retry_delays_s = [0, -5]", "must be at least 0"),
        ("ntp", "timeout_s = true", "must be a number"),
        ("ntp", 'mode = "both"', "must be one of simple, advanced"),
        ("ntp", "strict = 5", "must be a table"),
        ("ntp", "stale_after_s = 10", "must be more than ntp.publish_interval_s (10)"),
        ("supervisor", "backoff_max_s = 0.5", "must be at least supervisor.backoff_initial_s (1)"),
        ("logging", 'level = "LOUD"', "must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    ],
)
def test_value_out_of_what_is_allowed(section: str, line: str, allowed: str) -> None:
    (fault,) = faults(f"[{section}]\n{line}\n{CHANNEL}")
    assert fault.startswith(f"{section}.{line.split(maxsplit=1)[0]}")
    assert allowed in fault


@pytest.mark.parametrize("name", ["WWV 2.5 MHz", "a", "CHU+", "x_y-z", "9", "a.b", "n" * 48])
def test_names_that_can_be_folders(name: str) -> None:
    assert parse_config({"channels": [{"name": name, "frequency_hz": 1}]}).channels[0].name == name


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b", "a\\b", "/abs", "..", "a..b", ".hidden", " a", "a ", "n" * 49, "a\0b", "é", "a\tb", "ntp"],
)
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"channels": [{"name": name, "frequency_hz": 1}]})
    (fault,) = caught.value.faults
    assert fault.key == "channels[0].name"
    if "/" in name or ".." in name:
        assert "path outside data_dir" in fault.allowed


@pytest.mark.parametrize("name", ["supervisor", "ntp", "radiod", "disk", "alerts", "web"])
def test_names_that_mean_something_else_in_the_log(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"channels": [{"name": name, "frequency_hz": 1}]})
    (fault,) = caught.value.faults
    assert fault.key == "channels[0].name"
    assert "must not be one of supervisor, ntp, radiod, disk, alerts, web" in fault.allowed


@pytest.mark.parametrize("ssrc", [0, 2**32 - 1, 2**32, -1])
def test_reserved_ssrc(ssrc: int) -> None:
    (fault,) = faults(f"{CHANNEL}ssrc = {ssrc}")
    assert fault == f"channels[0].ssrc = {ssrc}: must be from 1 to 4294967294"


def two(first: str, second: str) -> str:
    """Two channels with these keys."""
    return f"[[channels]]\nfrequency_hz = 10e6\n{first}\n[[channels]]\nfrequency_hz = 10e6\n{second}\n"


def test_one_ssrc_for_two_channels_names_both() -> None:
    (fault,) = faults(two('name = "A"', 'name = "B"'))
    assert fault.startswith("channels[1].ssrc = 10000000: ")
    assert "'A' (channels[0])" in fault
    assert "'B'" in fault


@pytest.mark.parametrize("extra", ["enabled = false", 'data_address = "239.8.8.8"', "ssrc = 7"])
def test_one_ssrc_is_no_clash_when_never_received_together(extra: str) -> None:
    assert len(parse_config(two('name = "A"', f'name = "B"\n{extra}')).channels) == 2


def test_two_names_that_would_share_a_folder() -> None:
    (fault,) = faults(two('name = "A 1"', 'name = "A_1"\nssrc = 7'))
    assert fault.startswith('channels[1].name = "A_1": must differ from channels[0]')


def test_int16_storage_needs_int16_samples() -> None:
    (fault,) = faults(f'[recorder]\nstorage = "int16"\n{CHANNEL}encoding = "F32LE"')
    assert fault.startswith('channels[0].encoding = "F32LE": must be one of S16BE, S16LE')


@pytest.mark.parametrize("text", ["", f"{CHANNEL}enabled = false"])
def test_nothing_to_record(text: str) -> None:
    (fault,) = faults(text)
    assert "no channel is enabled" in fault
    assert parse_config(text, need_channels=False).enabled_channels == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[recorder]\ninstance = \n", "at line 2, column 12"),
        ("a = 1\na = 2\n", "Cannot overwrite a value"),
        ("x = " + "[" * 20_000, "not TOML"),
        ("channels = 5", "must be [[channels]] tables"),
        ("channels = [5]", "channels[0] = 5: must be a table"),
        ("recorder = 5", "recorder = 5: must be a table"),
        ("recodrer = 5", "did you mean recorder?"),
        ("retries = 0x" + "f" * 5_000, "unknown key"),
        ("[station]\nlatitude = 1" + "0" * 400, "must be a finite number"),
        ("day = 2026-11-22", "unknown key"),
    ],
)
def test_text_that_is_no_configuration(text: str, told: str) -> None:
    assert any(told in fault for fault in faults(text))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["station", "recorder", "radiod", "channels", "ntp", "supervisor", "logging"])
INNER = st.sampled_from(
    ["name", "frequency_hz", "ssrc", "data_dir", "servers", "strict", "level", "address", "latitude"]
)
TABLES = st.dictionaries(INNER, ANYTHING, max_size=4)


@given(st.dictionaries(KEYS, ANYTHING | TABLES | st.lists(TABLES, max_size=3), max_size=5))
def test_any_table_gives_a_configuration_or_faults(table: dict[str, Any]) -> None:
    try:
        parse_config(table)
    except ConfigError as error:
        assert error.faults
        assert str(error)


def test_relative_data_dir_counts_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f'[recorder]\ndata_dir = "rec"\n{CHANNEL}')
    config = load_config(file)
    assert config.recorder.data_dir == tmp_path / "rec"
    assert config.path == file


def test_home_in_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/op")
    text = f'[recorder]\ndata_dir = "~/rec"\n{CHANNEL}'
    assert parse_config(text, Path("/etc/a.toml")).recorder.data_dir == Path("/home/op/rec")


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, given_, default = (tmp_path / name for name in ("env.toml", "flag.toml", "default.toml"))
    for file in (named, given_, default):
        file.write_text(f'[recorder]\ninstance = "{file.stem}"\n{CHANNEL}')
    monkeypatch.setattr("pipeline.configfile.DEFAULT_PATH", default)
    assert load_config(None).recorder.instance == "default"
    monkeypatch.setenv("GRAPE_PIPELINE_CONFIG", str(named))
    assert load_config(None).recorder.instance == "env"
    assert load_config(given_).recorder.instance == "flag"


def unreadable(tmp_path: Path) -> Path:
    """A path that is no file."""
    return tmp_path


def not_utf8(tmp_path: Path) -> Path:
    """A file in Latin-1."""
    file = tmp_path / "latin.toml"
    file.write_bytes('callsign = "\xe9"'.encode("latin-1"))
    return file


@pytest.mark.parametrize(("make", "told"), [(unreadable, "cannot be read"), (not_utf8, "not UTF-8 text: byte 12")])
def test_files_that_cannot_be_read(tmp_path: Path, make: Callable[[Path], Path], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(make(tmp_path))


def test_missing_file_tells_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigMissing, match="grape-pipeline init"):
        load_config(tmp_path / "none.toml")
