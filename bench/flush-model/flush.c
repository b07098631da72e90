/* Preloaded under every contender: counts flushes and, when asked, replaces them by a modelled device, so that
 * ratios hold on other disks than this one.
 *
 *   FLUSH_US=-1 or unset   the real flush
 *   FLUSH_US=N             sleeps N microseconds instead; N=0 returns at once
 *   FLUSH_COUNT_FILE=PATH  a file of one native u64 that always holds the count, readable by another process
 *
 * A program reads its own counter mid-run through dlsym(RTLD_DEFAULT, "flush_count").
 *
 * Flushes from several threads overlap, as on a device with a queue.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static long device_us = -1;
static _Atomic uint64_t own_count;
static _Atomic uint64_t *count = &own_count;

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_sync_file_range)(int, off64_t, off64_t, unsigned);
static int (*real_msync)(void *, size_t, int);

__attribute__((constructor)) static void start(void) {
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_sync_file_range = dlsym(RTLD_NEXT, "sync_file_range");
    real_msync = dlsym(RTLD_NEXT, "msync");
    const char *us = getenv("FLUSH_US");
    if (us)
        device_us = atol(us);
    const char *path = getenv("FLUSH_COUNT_FILE");
    if (path) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd >= 0 && ftruncate(fd, sizeof *count) == 0) {
            void *shared = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (shared != MAP_FAILED)
                count = shared;
        }
        if (fd >= 0)
            close(fd);
    }
}

uint64_t flush_count(void) {
    return atomic_load(count);
}

/* Counts a flush. Returns 1 when the model has taken its place. The sleep is against the clock, with the timer
 * slack of this thread off: the default slack would add half of a fast device's 100 us. */
static int modelled(void) {
    static _Thread_local int slack_is_off;
    atomic_fetch_add(count, 1);
    if (device_us < 0)
        return 0;
    if (device_us == 0)
        return 1;
    if (!slack_is_off) {
        prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
        slack_is_off = 1;
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += device_us * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
    return 1;
}

int fsync(int fd) {
    return modelled() ? 0 : real_fsync(fd);
}

int fdatasync(int fd) {
    return modelled() ? 0 : real_fdatasync(fd);
}

int sync_file_range(int fd, off64_t from, off64_t length, unsigned flags) {
    return modelled() ? 0 : real_sync_file_range(fd, from, length, flags);
}

int msync(void *address, size_t length, int flags) {
    return modelled() ? 0 : real_msync(address, length, flags);
}
