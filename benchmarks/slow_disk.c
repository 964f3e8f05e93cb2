// SPDX-License-Identifier: Apache-2.0
// A worn disk for the processes that load this library (LD_PRELOAD): each call that reads, writes or flushes a regular
// file takes as many microseconds longer as SLOW_READ_US, SLOW_WRITE_US and SLOW_FLUSH_US say.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void delay(int fd, const char *name) {
    struct stat about;
    const char *microseconds = getenv(name);
    int before = errno;
    if (microseconds && fstat(fd, &about) == 0 && S_ISREG(about.st_mode)) {
        long us = atol(microseconds);
        struct timespec left = {us / 1000000, us % 1000000 * 1000};
        while (nanosleep(&left, &left) == -1 && errno == EINTR) {
        }
    }
    errno = before;
}

#define SLOW(kind, result, name, parameters, arguments)                                                               \
    result name parameters {                                                                                          \
        static result(*plain) parameters;                                                                             \
        if (!plain) plain = (result(*) parameters)dlsym(RTLD_NEXT, #name);                                            \
        delay(fd, "SLOW_" kind "_US");                                                                                \
        return plain arguments;                                                                                       \
    }

SLOW("READ", ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
SLOW("READ", ssize_t, pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at))
SLOW("READ", ssize_t, pread64, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
SLOW("WRITE", ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size))
SLOW("WRITE", ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at))
SLOW("WRITE", ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))
SLOW("FLUSH", int, fsync, (int fd), (fd))
SLOW("FLUSH", int, fdatasync, (int fd), (fd))
