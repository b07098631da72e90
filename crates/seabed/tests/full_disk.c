/* Preloaded under a server: while the file that FULL_DISK_FLAG names exists, no regular file may grow, as on a disk without a
 * free block; bytes that a file has already can be written over, and the index of a log, which is removed and made again when its
 * file is opened anew, has the room that its removal gave back. When the one that FAILED_FLUSH_FLAG names exists, the store's next
 * flush removes it and fails; what it was to flush stays readable. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int is_index(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    return length > 4 && memcmp(path + length - 4, "-shm", 4) == 0;
}

static int is_full(int fd, off64_t end) {
    const char *flag = getenv("FULL_DISK_FLAG");
    struct stat64 file;
    if (!flag || access(flag, F_OK) != 0 || fstat64(fd, &file) != 0 || !S_ISREG(file.st_mode) || end <= file.st_size ||
        is_index(fd))
        return 0;
    errno = ENOSPC;
    return 1;
}

static int flush_fails(void) {
    const char *flag = getenv("FAILED_FLUSH_FLAG");
    if (!flag || unlink(flag) != 0)
        return 0;
    errno = EIO;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t count) {
    int before = errno;
    off64_t at = lseek64(fd, 0, SEEK_CUR);
    errno = before;
    return at >= 0 && is_full(fd, at + (off64_t)count) ? -1 : REAL(write)(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return is_full(fd, at + (off_t)count) ? -1 : REAL(pwrite)(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return is_full(fd, at + (off64_t)count) ? -1 : REAL(pwrite64)(fd, bytes, count, at);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t count, unsigned flags) {
    return is_full(to, INT64_MAX) ? -1 : REAL(copy_file_range)(from, from_at, to, to_at, count, flags);
}

/* SQLite's; copies are flushed with fsync. */
int fdatasync(int fd) {
    return flush_fails() ? -1 : REAL(fdatasync)(fd);
}
