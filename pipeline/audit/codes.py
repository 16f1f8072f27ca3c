"""Every fault that an audit can name: how bad it is, what it means for whoever uses the files, and what to do."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Severity(enum.StrEnum):
    """ERROR: samples or labels are not what the file says. WARNING: look at it. INFO: nothing is wrong."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Code(NamedTuple):
    """A kind of fault; `todo` is empty where nothing is to be done."""

    severity: Severity
    means: str
    todo: str


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO
_RECORDER = "Do not use this file's gap list; report it with the file, since the recorder never writes this."
_SAMPLES_ONLY = "Use the samples by the zeros in them, not by the list."

ANY_FILE: dict[str, Code] = {
    "empty_file": Code(_E, "Its writer was killed, or its disk was full, while it wrote over the final name.",
                       "The minute is lost: delete the file, since readers of all files stop at it."),
    "unreadable": Code(_E, "Its samples are lost unless there is a copy.",
                       "Take it from a copy; else move it out of the tree, since readers of all files stop at it."),
    "unreadable_folder": Code(_E, "What is in it was not checked.", "Run verify as a user who may read it."),
    "gone": Code(_I, "The file was deleted or renamed while the tree was checked.", ""),
    "object_array": Code(_E, "Plain numpy.load refuses this key, and signal-recorder's analytics the whole file.",
                         "Read the other keys by name, or write the file anew without this one. Do not turn on "
                         "allow_pickle for files of others: it runs what is in them."),
    "keys": Code(_E, "Readers that need these keys fail on this file.",
                 "Leave the file out of analyses that need them."),
    "nonsense": Code(_E, "The values of its keys are not ones that a recorder can have meant.",
                     "Take it from a copy; nothing in it can be relied on."),
    "length": Code(_E, "Readers take sample i for second i / rate of 60 s.",
                   "Use the samples by their own rate and count; do not join the file to its neighbours."),
    "name": Code(_E, "Readers go by the name; it contradicts what the file says.",
                 "Trust the keys, not the name: the file was renamed, or copied to another channel's folder."),
    "stray": Code(_W, "Readers of an archive take every .npz below it for a minute.", "Move it out of the tree."),
    "temporary": Code(_W, "A write was cut short long ago; the minute is elsewhere or lost.",
                      "Start the recorder, which deletes it, or delete it; see whether its minute is missing."),
    "no_minutes": Code(_W, "There is nothing to check here.", "Name the data directory or a folder in it."),
    "duplicate_minute": Code(_E, "Two files claim the same minute of the same channel.",
                             "Keep the one whose anchor has the smaller bound, or both apart in two trees."),
    "rtp_not_wrapped": Code(_E, "RTP timestamps have 32 bits; arithmetic modulo 2^32 with this one goes wrong.",
                            "Take it modulo 2^32 before use; the samples are not touched by this."),
    "label_line": Code(_E, "The file contradicts itself: its anchor gives another time for its first sample.",
                       "Do not use the file where time matters by less than this difference."),
    "mid_minute": Code(_E, "iq[0] is not at the minute that the file is named for.",
                       "Use sample0_utc_ns, never the name, as the time of iq[0]."),
    "gap_range": Code(_E, "The gap list cannot be applied to the samples.", _SAMPLES_ONLY),
    "gap_overlap": Code(_E, "Samples are counted as missing twice.", _SAMPLES_ONLY),
    "gap_not_zero": Code(_E, "Either the samples or the list of what is missing are wrong.",
                         "Leave these samples out: nothing says what they are."),
    "gap_sums": Code(_E, "Completeness computed from this file is wrong.", "Count from the gap list itself."),
    "gap_rtp": Code(_E, "The gap list names other samples than those that are missing.", _SAMPLES_ONLY),
    "unlisted_zeros": Code(_E, "Samples that were not received look like a silent channel.",
                           "Treat runs of zeros of a packet or more as missing."),
    "not_finite": Code(_W, "Samples that are not numbers spoil every average and spectrum.",
                       "Set them to zero and treat them as missing."),
}  # fmt: skip

OURS: dict[str, Code] = {
    "no_bound": Code(_E, "Nothing says how far the labels may be wrong.", "Do not use the file where time matters."),
    "wide_bound": Code(_W, "So wide a bound does not even say which minute it is.",
                       "See why the recorder knew no time then: its log, and `ntp_state` in the file."),
    "segments": Code(_E, "The rows of segment_* do not describe the samples of the file.", _RECORDER),
    "anchor_within": Code(_E, "The anchor changed inside the file, where it may change at a minute only.",
                          "Time differences across this place in the file are wrong by the step."),
    "gap_cause": Code(_E, "A cause contradicts its own row, or is none of those that exist.",
                      "Take the cause for unknown; what is missing is not touched by this."),
    "packets": Code(_E, "The packet counters and the samples exclude each other.", "Count samples, not packets."),
    "host_clock": Code(_W, "The label and a synchronised host clock disagree by more than both state.",
                       "Compare with tone_residual_ms and the other channels; the one that stands alone is wrong."),
    "sample_clock": Code(_W, "No oscillator is so far off: samples are lost before they get a timestamp, as on USB.",
                         "Look at radiod's host; labels within the file drift by this rate."),
    "tone": Code(_W, "The station's minute tone contradicts the label by more than the bounds of both.",
                 "If other channels say the same the label is wrong by that much; if not, the tone was misheard."),
    "hole": Code(_E, "Samples of a running stream are in no file.",
                 "Treat the files as two recordings: do not carry phase from one to the other."),
    "overlap": Code(_E, "The same samples are in two files without a re-anchoring that would explain it.",
                    "Leave the repeated samples of the second file out before joining the two."),
    "label_step": Code(_E, "Between these two files at least one label is wrong by more than its bound.",
                       "Find the true one by the tone residual or the host clock of the files on both sides."),
    "rate_change": Code(_E, "The sample rate changed within an epoch; arithmetic on its RTP timestamps is wrong.",
                        "Do not cross this place with RTP arithmetic."),
    "missing_minutes": Code(_W, "The stream ran on: nothing was received for so long, or files are gone.",
                            "Look for the files in copies and in the recorder's log of that time."),
    "part_without_main": Code(_W, "A second part of a minute whose first part is not in the archive.",
                              "Look for the first part; else use the part alone."),
    "not_recorded": Code(_I, "Between two runs of the recorder or two RTP timelines.", ""),
    "new_session": Code(_I, "The recorder was started anew; its epochs count from 1 again.", ""),
    "new_epoch": Code(_I, "A new RTP timeline; no arithmetic may cross this.", ""),
    "reanchored": Code(_I, "The label was improved by a step that both files' bounds allow.", ""),
}  # fmt: skip

_WHOLE_SESSION = "Take the label later by the stated amount, in all files of this session, or leave them out."

SIGNAL_RECORDER: dict[str, Code] = {
    "mid_minute_start": Code(_E, "The recorder started within a minute and labelled its first sample with the "
                                 "minute's begin: samples are not those of the file's minute, to the session's end.",
                             _WHOLE_SESSION),
    "mid_minute_likely": Code(_W, "As mid_minute_start, or its writer lagged by as much: no gap and no tone tells.",
                              "Compare the minute tone, or a neighbour's recording, before time matters."),
    "boundary_shift": Code(_E, "Samples were dropped at minute boundaries; all that follows is labelled too early.",
                           "Take labels later by the stated amount; it grows from file to file, so do not join files."),
    "gap_index_cumulative": Code(_E, "Indices count from the start of the recorder, not of the file's samples.",
                                 "Use gap_rtp_timestamps - rtp_timestamp as the index, if no shift is named here; "
                                 "else the runs of zeros."),
    "gap_cut": Code(_E, "Zeros of a gap were cut off at the minute's end; all that follows is shifted by as much.",
                    "Take labels of later files later by that amount, as boundary_shift says where a gap shows it."),
    "anchor_old": Code(_E, "Beyond 2^31 samples the recorder's signed difference of timestamps changes sign.",
                       "Expect labels that jump back; count minutes on from the files before."),
    "label_jump": Code(_E, "Labels jumped back by 2^32 samples: the data are days younger than the name.",
                       "Add 2^32 / rate seconds to the label; created_timestamp shows the true day."),
    "overwritten": Code(_E, "The minute of this name was recorded before and is lost.",
                        "Look for a copy from before created_timestamp."),
    "label_future": Code(_E, "The file was finished before its minute was over: the anchor paired the wrong instants.",
                         "Labels of this session are too late, by two minutes as a rule; see created_timestamp."),
    "minutes_early": Code(_E, "A label was given twice: a finished minute was overwritten, later labels are early.",
                          "Add the stated minutes to the labels from here on; the overwritten minute is lost."),
    "phantom_samples": Code(_E, "Zeros were inserted that the stream's timestamps know nothing of.",
                            "Samples behind the first gap have no known time; use the file for levels at most."),
    "known_limits": Code(_I, "signal-recorder: the sign of ntp_offset_ms is not to be relied on, tone_* are the "
                             "anchor's, gaps have no cause, and no file says how far its label may be wrong.", ""),
}  # fmt: skip

CODES: dict[str, Code] = {**ANY_FILE, **OURS, **SIGNAL_RECORDER}
