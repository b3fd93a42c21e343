/* poll MOUNT N: N digests on a non-blocking context, as many in flight as its queue takes; prints `ok N`. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct header { uint32_t size; uint8_t version, operation; uint16_t flags; uint64_t id; uint32_t status, attributes; };
enum { CONFIGURE = 1, DIGEST = 18, TEXT = 16, BATCH = 50, RECORD = sizeof(struct header) + TEXT };
static uint8_t answers[1044480];

static void fail(const char *what) { fprintf(stderr, "poll: %s: %s\n", what, strerror(errno)); exit(1); }

/* Put digest records with the ids first, first + 1, … into `batch`; returns their size. */
static size_t digests(uint8_t *batch, uint64_t first, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        struct header h = { RECORD, 1, DIGEST, 0, first + i, 0, 0 };
        memcpy(batch + i * RECORD, &h, sizeof h);
        snprintf((char *)batch + i * RECORD + sizeof h, TEXT + 1, "%016llu", (unsigned long long)(first + i));
    }
    return count * RECORD;
}

static void configure(int fd) {
    struct { struct header h; char attributes[20]; } request = { { 44, 1, CONFIGURE, 0, 0, 0, 20 }, { 0 } };
    struct header reply;
    memcpy(request.attributes, "\1\0\4\0hash" "\2\0\6\0sha256\0", 20);
    if (write(fd, &request, request.h.size) < 0) fail("configure");
    ssize_t got = read(fd, answers, sizeof answers);
    if (got < (ssize_t)sizeof reply) fail("read of configure");
    memcpy(&reply, answers, sizeof reply);
    if ((errno = reply.status)) fail("configure");
}

/* Take all answers that are ready, and mark their ids as seen; returns how many they were. */
static uint64_t take(int fd, uint8_t *seen, uint64_t n) {
    ssize_t got = read(fd, answers, sizeof answers);
    uint64_t count = 0;
    struct header h;
    if (got < 0 && errno != EAGAIN) fail("read");
    for (ssize_t at = 0; at < got; at += h.size, count++) {
        memcpy(&h, answers + at, sizeof h);
        if (h.status || h.size != sizeof h + 32) errno = EPROTO, fail("an answer");
        if (!h.id || h.id > n || seen[h.id]++) errno = EPROTO, fail("an id");
    }
    return count;
}

int main(int argc, char **argv) {
    char path[4096];
    uint8_t batch[BATCH * RECORD + 1];
    uint64_t n = argc == 3 ? strtoull(argv[2], NULL, 10) : 0, sent = 0, answered = 0;
    uint8_t *seen = calloc(n + 1, 1);
    snprintf(path, sizeof path, "%s/crypto", argc == 3 ? argv[1] : ".");
    int fd = open(path, O_RDWR | O_NONBLOCK);
    if (fd < 0 || !seen) fail(path);
    configure(fd);
    while (answered < n) {
        struct pollfd wait = { fd, POLLIN | (sent < n ? POLLOUT : 0), 0 };
        if (poll(&wait, 1, 20000) <= 0) errno = ETIMEDOUT, fail("poll");
        if (wait.revents & (POLLERR | POLLHUP)) errno = EIO, fail("poll");
        if (wait.revents & POLLOUT) {
            uint64_t count = n - sent < BATCH ? n - sent : BATCH;
            if (write(fd, batch, digests(batch, sent + 1, count)) >= 0) sent += count;
            else if (errno != EAGAIN) fail("write");
            /* a queue that takes fewer than these is emptied first */
            else answered += take(fd, seen, n);
        } else answered += take(fd, seen, n);
    }
    printf("ok %llu\n", (unsigned long long)answered);
    return close(fd);
}
