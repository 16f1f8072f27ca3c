"""What `top` shows: a snapshot as lines of text that fit a terminal.

Pure. Every verdict is a word as well as a colour, so that nothing is lost without colour.
A line is never longer than the terminal is wide; columns that do not fit are left out,
the least needed first, and what is left over makes the bars longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from pipeline import DISTRIBUTION
from pipeline.records import UNKNOWN_NS, AnchorSource, ChildRecord, ChildState
from pipeline.supervision.causes import Level, Process, Row, Snapshot, age_s, channel_cause, duration_text, minute_text
from pipeline.supervision.report import fill_pct, folded, ntp_words, up_text
from pipeline.supervision.troubles import health, ntp_cause, pause_text

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.CRIT: "bold red"}
NAME_WIDTH = 13
BAR_WIDTH, BAR_MAX = 6, 30
KEYS = "q quit  r restart  arrows or j k select"
# Beside the channels: three lines above, a heading, an empty line, a cause and the keys.
FRAME_LINES = 7
MIN_CAUSES = 2


@dataclass(frozen=True, slots=True)
class View:
    """What the terminal and its user add to a snapshot; `utc_s` is the host's clock."""

    width: int
    height: int
    utc_s: float
    selected: int = 0
    interactive: bool = False
    message: str = ""
    before: Snapshot | None = None  # for the present CPU load; None: the mean since the process started


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    width: int
    text: Callable[[Row, Snapshot, View], str]
    rank: int = 0  # 0 is always there; the higher ones go first when it gets narrow
    right: bool = True


def frame(s: Snapshot, view: View) -> list[Text]:
    """The lines of one picture, at most `view.height`, each at most `view.width` wide."""
    verdict = health(s)
    shown = _window(len(s.rows), view)
    lines = [_head(s, verdict.level, view), _clock(s, view), _others(s, view)]
    columns, bar = _layout(view.width)
    lines.append(Text(_cells([c.heading for c in columns], columns, bar), style="bold"))
    lines += [_row(i, s, view, columns, bar) for i in shown]
    below = [Text()] if view.height > len(lines) + MIN_CAUSES else []
    room = view.height - len(lines) - len(below) - (1 if view.interactive else 0)
    lines += below + _causes(verdict.causes, room, view.width)
    if view.interactive:
        lines += [Text()] * (view.height - len(lines) - 1) + [_foot(view)]
    return [_fit(line, view.width) for line in lines[: view.height]]


def absent(instance: str, why: str, view: View, pid: int | None = None) -> list[Text]:
    """The picture when there is nothing to look at, although the instance runs if it has a pid."""
    state = "not running" if pid is None else "not seen"
    lines = [Text(f"{DISTRIBUTION} {instance}  {state}", style=STYLES[Level.CRIT]), *map(Text, _wrap(why, view.width))]
    if view.interactive:
        lines += [Text()] * max(0, view.height - len(lines) - 1) + [_foot(view)]
    return [_fit(line, view.width) for line in lines]


def _fit(line: Text, width: int) -> Text:
    line.truncate(width)
    line.no_wrap = True
    return line


def _window(count: int, view: View) -> range:
    """The channels that fit, the selected one among them."""
    room = max(1, view.height - FRAME_LINES) if count > view.height - FRAME_LINES else count
    start = min(max(0, view.selected - room // 2), count - room)
    return range(start, start + room)


# The lines above the table


def _head(s: Snapshot, level: Level, view: View) -> Text:
    up = sum(row.child.state == ChildState.RUNNING for row in s.rows) if s.supervisor_exists else 0
    line = Text.assemble((f"{DISTRIBUTION} {s.instance}", "bold"), "  ", (level.name, STYLES[level]))
    line.append(f"  {up_text(up, len(s.rows))}")
    since = age_s(s.supervisor.started_monotonic_ns, s.now_ns)
    if since is not None and s.supervisor_exists:
        line.append(f"  for {duration_text(since)}")
    if (pause := pause_text(s)) and len(line.plain) + len(pause) < view.width - 12:
        line.append(f"  {pause}")
    clock = _hms(view.utc_s)
    line.append(" " * max(2, view.width - len(line.plain) - len(clock)) + clock)
    return line


def _hms(utc_s: float) -> str:
    second = int(utc_s) % 86400
    return f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"


def _clock(s: Snapshot, view: View) -> Text:
    """As many words as fit: the last are the ones that can be missed."""
    words = ntp_words(s)
    while len("  ".join(words)) > view.width and len(words) > 2:
        words.pop()
    line = Text("  ".join(words))
    state = next((w for w in words if w in ("synced", "holdover", "unsynced", "starting")), "")
    line.highlight_words([state], STYLES[ntp_cause(s)[0]])
    return line


def _others(s: Snapshot, view: View) -> Text:
    """The processes that are not channels, and where the files go."""
    line = ""
    for pid, restarted in (("pid ", "restarted {}x"), ("", "restarted {}x"), ("", "rs {}")):
        parts = [
            f"{child.name} {_load(child, s, view, pid, restarted)}" for child in s.children[: -len(s.rows) or None]
        ]
        line = "  ".join([*parts, f"files {s.config.recorder.data_dir}"])
        if len(line) <= view.width:
            break
        line = "  ".join(parts)  # half a path says nothing
        if len(line) <= view.width and not pid:
            break
    return Text(line, style="dim")


def _load(child: ChildRecord, s: Snapshot, view: View, pid: str, restarted: str) -> str:
    found = s.processes.get(child.pid)
    restarts = f" {restarted.format(child.restarts)}" if child.restarts else ""
    if found is None:
        return f"gone{restarts}"
    return f"{pid}{child.pid} {_cpu(child, s, view)}% {found.rss_mb:.0f}M{restarts}"


# The table


def _layout(width: int) -> tuple[list[_Column], int]:
    """The columns that fit and the width of the bar."""
    rank = max(c.rank for c in COLUMNS)
    while rank and _needed(rank) > width:
        rank -= 1
    chosen = [c for c in COLUMNS if c.rank <= rank]
    return chosen, min(BAR_MAX, BAR_WIDTH + max(0, width - _needed(rank)))


def _needed(rank: int) -> int:
    return 1 + sum(c.width + 1 for c in COLUMNS if c.rank <= rank) - 1


def _cells(texts: Sequence[str], columns: Sequence[_Column], bar: int, mark: str = " ") -> str:
    cells = []
    for text, column in zip(texts, columns, strict=True):
        width = bar if column.heading == BAR_HEADING else column.width
        cut = text if len(text) <= width else text[: width - 1] + "~"
        cells.append(cut.rjust(width) if column.right else cut.ljust(width))
    return mark + " ".join(cells)


def _row(index: int, s: Snapshot, view: View, columns: Sequence[_Column], bar: int) -> Text:
    row = s.rows[index]
    level, _ = channel_cause(row, s)
    chosen = view.interactive and index == view.selected
    texts = [
        _bar(fill_pct(row.record, s.now_ns, view.utc_s), view.utc_s, bar)
        if c.heading == BAR_HEADING
        else c.text(row, s, view)
        for c in columns
    ]
    line = Text(_cells(texts, columns, bar, ">" if chosen else " "), style="bold" if chosen else "")
    start = 1 + columns[0].width + 1
    line.stylize(STYLES[level], start, start + columns[1].width)
    return line


def _bar(fill_pct: float, utc_s: float, width: int) -> str:
    """`###-..`: received, over and not received, still to come."""
    if math.isnan(fill_pct):
        return "?" * width
    got = min(width, round(fill_pct / 100 * width))
    over = int(utc_s % 60 / 60 * width)
    return ("#" * got + "-" * max(0, over - got)).ljust(width, ".")


def _dbfs(row: Row, _s: Snapshot, _view: View) -> str:
    level = row.record.level_dbfs
    return "-" if math.isnan(level) else f"{level:.{1 if level > -100 else 0}f}"


def _anchor(row: Row, _s: Snapshot, _view: View) -> str:
    r = row.record
    if r.anchor_source == AnchorSource.NONE:
        return "none"
    name = {AnchorSource.WALL_CLOCK: "clock"}.get(AnchorSource(r.anchor_source))
    bound = "?" if r.anchor_uncertainty_ns == UNKNOWN_NS else _short_ms(r.anchor_uncertainty_ns / 1e6)
    return f"{name or AnchorSource(r.anchor_source).name.lower():6} {bound:>5}"


def _short_ms(ms: float) -> str:
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def _file(row: Row, s: Snapshot, _view: View) -> str:
    text = minute_text(row.record.last_minute_utc_s)
    age = age_s(row.record.last_write_monotonic_ns, s.now_ns)
    if text is None:
        return "none yet"
    return text[11:16] + ("" if age is None else f" {_short_age(age)}")


def _short_age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= (size if unit == "d" else 1.5 * size):
            return f"{int(seconds / size)}{unit}"
    return f"{int(seconds)}s"


def _write(row: Row, _s: Snapshot, _view: View) -> str:
    return "-" if math.isnan(row.record.write_ms) else f"{row.record.write_ms:.0f}"


def _cpu(child: ChildRecord, s: Snapshot, view: View) -> str:
    found = s.processes.get(child.pid)
    return "-" if found is None else f"{_cpu_pct(child.pid, found, s, view.before):.1f}"


def _cpu_pct(pid: int, found: Process, s: Snapshot, before: Snapshot | None) -> float:
    """Percent of a core between the two looks; the mean since the start when there was no other."""
    earlier = before.processes.get(pid) if before is not None else None
    if before is None or earlier is None or s.now_ns <= before.now_ns or math.isnan(earlier.cpu_s):
        return found.cpu_pct
    return max(0.0, 100e9 * (found.cpu_s - earlier.cpu_s) / (s.now_ns - before.now_ns))


def _memory(row: Row, s: Snapshot, _view: View) -> str:
    found = s.processes.get(row.child.pid)
    return "-" if found is None else f"{found.rss_mb:.0f}M"


def _count(value: int) -> str:
    return str(value) if value < 100_000 else f"{value // 1000}k" if value < 10_000_000 else f"{value // 1_000_000}M"


BAR_HEADING = "minute"
COLUMNS = (
    _Column("channel", NAME_WIDTH, lambda row, s, v: row.child.name, right=False),
    _Column("is", 4, lambda row, s, v: channel_cause(row, s)[0].name, right=False),
    _Column("dBFS", 5, _dbfs, rank=1),
    _Column(BAR_HEADING, BAR_WIDTH, lambda row, s, v: "", right=False),
    _Column("lost", 5, lambda row, s, v: _count(row.record.packets_lost)),
    _Column("anchor +-ms", 12, _anchor, right=False),
    _Column("file age", 9, _file, right=False),
    _Column("wr ms", 5, _write, rank=2),
    _Column("cpu%", 4, lambda row, s, v: _cpu(row.child, s, v), rank=1),
    _Column("mem", 4, _memory, rank=2),
    _Column("rs", 2, lambda row, s, v: _count(row.child.restarts), rank=1),
    _Column("last%", 6, lambda row, s, v: _percent(row.record.completeness_pct), rank=3),
    _Column("late", 5, lambda row, s, v: _count(row.record.packets_late), rank=3),
    _Column("wait", 4, lambda row, s, v: _count(row.record.backlog), rank=3),
    _Column("pid", 7, lambda row, s, v: str(row.child.pid or "-"), rank=3),
)


def _percent(value: float) -> str:
    # Rounded down: what is not complete never reads 100.
    return "-" if math.isnan(value) else "100" if value >= 100 else f"{math.floor(value * 100) / 100:.2f}"


# Below the table


def _causes(causes: Sequence[str], room: int, width: int) -> list[Text]:
    """What is wrong in words, as far as there is room; how much more there is, if not."""
    if room <= 0:
        return []
    if not causes:
        return [Text("nothing is wrong", style=STYLES[Level.OK])]
    lines = [line for cause in causes for line in _wrap(cause, width)]
    if len(lines) > room:
        lines = [line for cause in folded(causes) for line in _wrap(cause, width)]
    if len(lines) <= room:
        return [Text(line) for line in lines]
    return [Text(line) for line in lines[: room - 1]] + [Text("... and more: grape-pipeline status")]


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = "   " + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _foot(view: View) -> Text:
    line = Text(KEYS, style="reverse")
    if view.message:
        line = Text.assemble((KEYS, "reverse"), "  ", view.message)
    return line
