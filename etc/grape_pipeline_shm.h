/* grape-pipeline's shared memory for readers in C: layout version 2.
 *
 * The segment /grape-pipeline-<instance> is POSIX shared memory of mode 0644. Map it read-only:
 *
 *     int fd = shm_open("/grape-pipeline-default", O_RDONLY, 0);   (fstat gives the size)
 *     const unsigned char *base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
 *     const struct grape_header *header = grape_header(base, size);   (NULL: not ours, or another version)
 *     struct grape_ntp ntp;
 *     if (header && grape_read_ntp(base, header, &ntp)) ...
 *
 * Byte order is that of a little-endian machine. A record lies in a cell with two slots:
 *
 *     byte 0               u64  sequence k of the newest whole record, 0 = none yet
 *     byte 64              slot 0
 *     byte 64 + slot_size  slot 1; record k lies in slot k & 1:
 *                          u32 crc32, u32 length, then `length` bytes of record
 *     slot_size            8 + the greatest length, rounded up to 64
 *
 * The CRC is zlib's crc32(k & 0xffffffff, record, length). One process writes a cell: first all bits of
 * the older slot's first 8 bytes, then the record, then CRC and length, then k. A reader takes k, copies the
 * slot and compares the CRC; if it does not fit, the writer has come round twice meanwhile: look again. Nothing
 * locks, nothing waits, and a writer that died in the middle leaves the newest whole record readable.
 *
 * Unknown is NaN for double, INT64_MIN for times, an empty string for text. Times ending in monotonic_ns are
 * CLOCK_MONOTONIC; a record whose published_monotonic_ns or heartbeat_monotonic_ns is old was left by a dead process.
 * Offsets are host - UTC: positive means that the host clock is ahead.
 *
 * The tables of pipeline/records.py decide; tests/unit/test_records.py compares these structs with them.
 */
#ifndef GRAPE_PIPELINE_SHM_H
#define GRAPE_PIPELINE_SHM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define GRAPE_MAGIC UINT64_C(0x314c504550415247) /* "GRAPEPL1" */
#define GRAPE_VERSION 2u
#define GRAPE_READ_TRIES 64
#define GRAPE_DIAGNOSTICS_SIZE 16384 /* JSON text in the diagnostics cell, at most */

struct grape_header { /* at byte 0 of the segment */
    uint64_t magic;                  /*  0 */
    uint32_t version;                /*  8 */
    uint32_t header_size;            /* 12 */
    int64_t  created_utc_ns;         /* 16 */
    int64_t  created_monotonic_ns;   /* 24 */
    uint32_t supervisor_pid;         /* 32 */
    uint32_t max_channels;           /* 36 */
    uint32_t ntp_offset;             /* 40 cell of struct grape_ntp */
    uint32_t ntp_diagnostics_offset; /* 44 cell of JSON text */
    uint32_t channels_offset;        /* 48 first of max_channels cells of struct grape_channel */
    uint32_t channel_stride;         /* 52 */
    uint32_t children_offset;        /* 56 first of max_channels + 2 cells of struct grape_child: */
    uint32_t child_stride;           /* 60 the supervisor, the NTP monitor, then the channels' workers */
    uint32_t alerts_offset;          /* 64 cell of struct grape_child: the process that sends alerts, if there is one */
    uint32_t alerts_report_offset;   /* 68 cell of struct grape_alerts */
    char     instance[64];           /* 72 UTF-8, NUL padded */
} __attribute__((packed));

struct grape_ntp { /* 104 bytes */
    int64_t  published_monotonic_ns;    /*   0 CLOCK_MONOTONIC of this publication, ns; the monitor's heartbeat */
    int64_t  monotonic_ns;              /*   8 CLOCK_MONOTONIC of the measurement behind offset_ms, ns */
    int64_t  utc_ns;                    /*  16 CLOCK_REALTIME of the same instant, ns since 1970 */
    double   offset_ms;                 /*  24 host - UTC, ms, positive = host ahead; NaN unknown */
    double   uncertainty_ms;            /*  32 bound on the error of offset_ms, ms; NaN unknown */
    double   jitter_ms;                 /*  40 expected error of offset_ms, ms; NaN unknown */
    uint32_t step_count;                /*  48 host clock steps seen since the instance started */
    uint16_t truechimers;               /*  52 servers that agree */
    uint16_t falsetickers;              /*  54 servers that answered and disagree */
    uint8_t  valid;                     /*  56 1 = offset_ms can be trusted within uncertainty_ms */
    uint8_t  synced;                    /*  57 1 = valid and |offset| + uncertainty within synced_within_ms */
    uint8_t  state;                     /*  58 0 starting 1 synced 2 holdover 3 unsynced */
    uint8_t  quality;                   /*  59 0 none 1 strict 2 relaxed */
    uint8_t  leap;                      /*  60 RFC 5905 leap indicator; 3 = unknown */
    uint8_t  stratum;                   /*  61 of the source; 0 = unknown */
    uint16_t flags;                     /*  62 bit 0 local daemon and servers disagree, bit 1 kernel says synchronised */
    char     source[40];                /*  64 what the offset comes from, UTF-8, NUL padded */
} __attribute__((packed));

struct grape_channel { /* 432 bytes */
    int64_t  heartbeat_monotonic_ns;    /*   0 CLOCK_MONOTONIC of this publication, ns */
    int64_t  started_monotonic_ns;      /*   8 CLOCK_MONOTONIC of the worker's start, ns */
    int64_t  last_packet_monotonic_ns;  /*  16 CLOCK_MONOTONIC when a packet was last taken, ns */
    int64_t  last_status_monotonic_ns;  /*  24 CLOCK_MONOTONIC when a status of this SSRC was last taken, ns */
    int64_t  last_minute_utc_s;         /*  32 UTC second at which the newest file begins; 0 = none yet */
    int64_t  last_write_monotonic_ns;   /*  40 CLOCK_MONOTONIC when the newest file was on disk, ns */
    uint64_t minutes_written;           /*  48 files, since the instance started */
    uint64_t minutes_dropped;           /*  56 minutes that had to be given up, since the instance started */
    uint64_t packets_received;          /*  64 since the instance started */
    uint64_t packets_lost;              /*  72 sequence numbers that never came */
    uint64_t packets_late;              /*  80 came after their minute was cut */
    uint64_t packets_duplicate;         /*  88 came again and changed nothing */
    uint64_t packets_reordered;         /*  96 came after a later one, in time */
    uint64_t packets_bad;               /* 104 malformed, foreign or off every timeline */
    uint64_t socket_dropped;            /* 112 of packets_lost, those for which the receive buffer had no room */
    uint64_t gap_events;                /* 120 gaps listed in the files, since the instance started */
    uint64_t bytes_written;             /* 128 size of the files, since the instance started, bytes */
    int64_t  disk_free_bytes;           /* 136 room on the disk of the files when the newest was written, bytes */
    int64_t  anchor_uncertainty_ns;     /* 144 bound on the label error, ns */
    double   frequency_hz;              /* 152 carrier, Hz */
    double   write_ms;                  /* 160 duration of the newest write, ms */
    double   level_dbfs;                /* 168 mean power of the newest packet, dB relative to full scale */
    double   completeness_pct;          /* 176 of the newest file, percent */
    double   minute_fill_pct;           /* 184 of the running minute, percent received so far */
    double   radiod_offset_ms;          /* 192 radiod host's clock - this host's clock by a status pair of the last 10 s, ms, at least */
    double   overload_age_s;            /* 200 since radiod's A/D converter was last overloaded, by a status of the last 10 s, s */
    double   oldest_wait_s;             /* 208 how long the oldest minute that is not on disk has been over, s; NaN = none */
    uint32_t pid;                       /* 216 of the worker */
    uint32_t ssrc;                      /* 220 RTP synchronisation source */
    uint32_t sample_rate_hz;            /* 224 in force */
    uint32_t epoch_id;                  /* 228 RTP timelines counted */
    uint32_t socket_buffer_bytes;       /* 232 receive buffer the kernel granted, bytes */
    uint32_t backlog;                   /* 236 minutes that are over and not on disk */
    uint32_t radiod_flags;              /* 240 bit 0 radiod's AGC is on */
    uint8_t  state;                     /* 244 0 starting 1 recording 2 silent 3 unanchored 4 blocked 5 stopped */
    uint8_t  anchor_source;             /* 245 0 none 1 radiod 2 ntp 3 wall_clock 4 wwv 5 wwvh 6 chu */
    uint8_t  encoding;                  /* 246 radiod's number: 1 S16LE 2 S16BE 4 F32LE 6 F16LE 8 F32BE 9 F16BE */
    uint8_t  owned;                     /* 247 1 = radiod's newest status says that this program created the channel */
    char     name[64];                  /* 248 channel name, UTF-8, NUL padded */
    char     reason[120];               /* 312 one line why state is what it is */
} __attribute__((packed));

struct grape_child { /* 312 bytes */
    int64_t  started_monotonic_ns;      /*   0 CLOCK_MONOTONIC of the fork, ns */
    int64_t  changed_monotonic_ns;      /*   8 CLOCK_MONOTONIC of the last change of state, ns */
    int64_t  heartbeat_monotonic_ns;    /*  16 CLOCK_MONOTONIC of this record, ns */
    uint32_t restarts;                  /*  24 times it was started again */
    uint32_t pid;                       /*  28 0 = not running */
    int32_t  last_status;               /*  32 last wait status as os.waitstatus_to_exitcode gives it */
    uint32_t state;                     /*  36 0 stopped 1 starting 2 running 3 backoff 4 stopping 5 fatal */
    char     name[64];                  /*  40 supervisor, ntp, alerts or the channel's id */
    char     reason[120];               /* 104 one line why state is what it is */
    int64_t  trouble_monotonic_ns;      /* 224 CLOCK_MONOTONIC since when something is wrong with it, ns */
    int64_t  paused_monotonic_ns;       /* 232 CLOCK_MONOTONIC when the supervisor last could not run for seconds, ns */
    double   paused_s;                  /* 240 for how long that was, s */
    double   window_s;                  /* 248 what fields in _1m are about: so many seconds before this record, at most 60; NaN = none yet */
    double   cpu_pct_1m;                /* 256 CPU time, percent of a core */
    uint64_t packets_received_1m;       /* 264 as in the channel's record, within the window */
    uint64_t packets_lost_1m;           /* 272 the same */
    uint64_t packets_reordered_1m;      /* 280 the same */
    uint64_t packets_bad_1m;            /* 288 the same */
    uint64_t socket_dropped_1m;         /* 296 the same */
    uint64_t bytes_written_1m;          /* 304 the same */
} __attribute__((packed));

struct grape_alerts { /* 152 bytes */
    int64_t  heartbeat_monotonic_ns;    /*   0 CLOCK_MONOTONIC of this record, ns */
    uint64_t sent;                      /*   8 messages that somebody took, since the process started */
    uint64_t given_up;                  /*  16 messages that nobody took, after all tries */
    uint32_t open;                      /*  24 incidents that were told and are not over */
    uint32_t waiting;                   /*  28 messages that are still to go out */
    char     reason[120];               /*  32 why the newest try failed; empty when it did not */
} __attribute__((packed));

static inline const struct grape_header *grape_header(const void *base, size_t size)
{
    const struct grape_header *header = base;
    if (size < sizeof *header || header->magic != GRAPE_MAGIC || header->version != GRAPE_VERSION)
        return NULL;
    return header;
}

static inline uint32_t grape_crc32(uint32_t crc, const unsigned char *data, size_t length)
{
    crc = ~crc;
    while (length--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (UINT32_C(0xedb88320) & (0u - (crc & 1u)));
    }
    return ~crc;
}

/* Copies the newest record of a cell made for `capacity` bytes; its length, or 0 when there is none. */
static inline size_t grape_read(const void *base, size_t cell, size_t capacity, void *record)
{
    const unsigned char *at = (const unsigned char *)base + cell;
    const size_t slot_size = (8 + capacity + 63) / 64 * 64;
    for (int tries = 0; tries < GRAPE_READ_TRIES; tries++) {
        const uint64_t k = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_ACQUIRE);
        const unsigned char *slot = at + 64 + (k & 1) * slot_size;
        if (k == 0)
            return 0;
        const uint64_t mark = __atomic_load_n((const uint64_t *)(const void *)slot, __ATOMIC_ACQUIRE);
        const size_t length = (size_t)(mark >> 32);
        if (length > capacity)
            continue;
        memcpy(record, slot + 8, length);
        if (grape_crc32((uint32_t)k, record, length) == (uint32_t)mark)
            return length;
    }
    return 0;
}

static inline int grape_read_ntp(const void *base, const struct grape_header *header, struct grape_ntp *record)
{
    return grape_read(base, header->ntp_offset, sizeof *record, record) == sizeof *record;
}

static inline int grape_read_channel(const void *base, const struct grape_header *header, uint32_t i,
                                     struct grape_channel *record)
{
    const size_t cell = header->channels_offset + (size_t)i * header->channel_stride;
    return i < header->max_channels && grape_read(base, cell, sizeof *record, record) == sizeof *record;
}

static inline int grape_read_child(const void *base, const struct grape_header *header, uint32_t i,
                                   struct grape_child *record)
{
    const size_t cell = header->children_offset + (size_t)i * header->child_stride;
    return i < header->max_channels + 2 && grape_read(base, cell, sizeof *record, record) == sizeof *record;
}

#endif
