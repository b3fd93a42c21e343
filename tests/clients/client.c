/* client MOUNT: the SHA-256 of standard input as 64 hex digits, from one digest record. For a little-endian machine. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct header { uint32_t size; uint8_t version, operation; uint16_t flags; uint64_t id; uint32_t status, attributes; };
static struct { struct header h; uint8_t rest[1 << 20]; } request, answer;

static void fail(const char *what) { fprintf(stderr, "client: %s: %s\n", what, strerror(errno)); exit(1); }

/* Send one record, whose attributes and payload stand in request.rest, and wait for its answer. */
static void call(int fd, uint8_t operation, uint32_t attributes, uint32_t payload) {
    request.h = (struct header){ 24 + attributes + payload, 1, operation, 0, 1, 0, attributes };
    if (write(fd, &request, request.h.size) < 0) fail("write");
    if (read(fd, &answer, sizeof answer) < 24) fail("read");
    if (answer.h.status == 0) return;
    uint16_t head[2]; /* an attribute's type and length */
    for (uint32_t at = 0; at < answer.h.attributes; at += 4 + (head[1] + 3) / 4 * 4) {
        memcpy(head, answer.rest + at, 4);
        if (head[0] == 10) fprintf(stderr, "client: %.*s\n", head[1], (char *)answer.rest + at + 4);
    }
    exit(1);
}

int main(int argc, char **argv) {
    char path[4096];
    snprintf(path, sizeof path, "%s/crypto", argc == 2 ? argv[1] : ".");
    int fd = open(path, O_RDWR);
    if (fd < 0) fail(path);
    memcpy(request.rest, "\1\0\4\0hash" "\2\0\6\0sha256\0", 20); /* the attributes type and name */
    call(fd, 1, 20, 0);
    call(fd, 18, 0, fread(request.rest, 1, sizeof request.rest, stdin));
    for (uint32_t i = answer.h.attributes; i < answer.h.size - 24; i++) printf("%02x", answer.rest[i]);
    putchar('\n');
}
