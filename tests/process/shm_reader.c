/* Reads an instance's NTP record as etc/grape_pipeline_shm.h says: `shm_reader SEGMENT` prints it,
 * `shm_reader SEGMENT COUNT` reads COUNT times beside a writer that keeps truechimers == falsetickers ==
 * step_count % 65536, and prints how many records were whole, torn and missing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "grape_pipeline_shm.h"

static int print_record(const void *base, const struct grape_header *header)
{
    struct grape_ntp ntp;
    if (!grape_read_ntp(base, header, &ntp)) {
        puts("none");
        return 1;
    }
    printf("%" PRId64 " %" PRId64 " %" PRId64 " %.17g %.17g %.17g %" PRIu32 " %u %u %u %u %u %u %u %u %u %.40s\n",
           ntp.published_monotonic_ns, ntp.monotonic_ns, ntp.utc_ns, ntp.offset_ms, ntp.uncertainty_ms, ntp.jitter_ms,
           ntp.step_count, ntp.truechimers, ntp.falsetickers, ntp.valid, ntp.synced, ntp.state, ntp.quality, ntp.leap,
           ntp.stratum, ntp.flags, ntp.source);
    return 0;
}

static int count_reads(const void *base, const struct grape_header *header, long count)
{
    long whole = 0, torn = 0, missing = 0;
    while (count-- > 0) {
        struct grape_ntp ntp;
        if (!grape_read_ntp(base, header, &ntp))
            missing++;
        else if (ntp.truechimers == ntp.falsetickers && ntp.truechimers == ntp.step_count % 65536)
            whole++;
        else
            torn++;
    }
    printf("%ld %ld %ld\n", whole, torn, missing);
    return 0;
}

int main(int argc, char **argv)
{
    struct stat status;
    const int fd = argc > 1 ? shm_open(argv[1], O_RDONLY, 0) : -1;
    if (fd < 0 || fstat(fd, &status) < 0)
        return 2;
    const void *base = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    const struct grape_header *header = base == MAP_FAILED ? NULL : grape_header(base, (size_t)status.st_size);
    if (header == NULL)
        return 3;
    return argc > 2 ? count_reads(base, header, atol(argv[2])) : print_record(base, header);
}
