/* aes MOUNT: three cbc(aes) encryptions in one write, matched by id, and one error. For a little-endian machine. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONFIGURE = 1, ENCRYPT = 16, TYPE = 1, NAME = 2, KEY = 3, IV = 8, MESSAGE = 10, HEADER = 24 };
struct header { uint32_t size; uint8_t version, operation; uint16_t flags; uint64_t id; uint32_t status, attributes; };
static uint8_t out[4096], in[1044480], outputs[4][32];
static size_t used; /* of out */

static void fail(const char *what) { fprintf(stderr, "aes: %s: %s\n", what, strerror(errno)); exit(1); }

static void append(const void *bytes, size_t size) { memcpy(out + used, bytes, size), used += size; }

static void header(uint8_t operation, uint64_t id, uint32_t attributes, uint32_t payload) {
    append(&(struct header){ HEADER + attributes + payload, 1, operation, 0, id, 0, attributes }, HEADER);
}

static void attribute(uint16_t type, const void *value, uint16_t length) { /* of a length that needs no padding */
    append((uint16_t[]){ type, length }, 4), append(value, length);
}

static void encrypt(uint64_t id, uint16_t iv_size) {
    uint8_t bytes[32];
    memset(bytes, (int)id, sizeof bytes);
    header(ENCRYPT, id, 4 + iv_size, 32), attribute(IV, bytes, iv_size), append(bytes, 32);
}

/* Send what is in out and read until there are `count` answers: outputs go to their ids' places, errors are printed. */
static void exchange(int fd, int count) {
    if (write(fd, out, used) < 0) fail("write");
    for (used = 0; count > 0;) {
        ssize_t got = read(fd, in, sizeof in);
        if (got <= 0) fail("read");
        struct header h; /* copied: records have no alignment */
        for (uint8_t *at = in; at < in + got; at += h.size, count--) {
            memcpy(&h, at, HEADER);
            uint8_t *a = at + HEADER, *payload = a + h.attributes;
            for (uint16_t head[2]; h.status && a < payload; a += 4 + (head[1] + 3) / 4 * 4) {
                memcpy(head, a, 4);
                if (head[0] == MESSAGE) printf("error %u %.*s\n", h.status, head[1], (char *)a + 4);
            }
            if (h.status == 0 && h.operation == ENCRYPT && h.id < 4) memcpy(outputs[h.id], payload, 32);
        }
    }
}

int main(int argc, char **argv) {
    char path[4096];
    snprintf(path, sizeof path, "%s/crypto", argc == 2 ? argv[1] : ".");
    int fd = open(path, O_RDWR);
    if (fd < 0) fail(path);
    header(CONFIGURE, 0, 44, 0);
    attribute(TYPE, "skcipher", 8), attribute(NAME, "cbc(aes)", 8);
    attribute(KEY, "\0\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17", 16);
    exchange(fd, 1);
    encrypt(3, 16), encrypt(1, 16), encrypt(2, 16), exchange(fd, 3);
    for (int id = 1; id <= 3; id++) {
        printf("%d ", id);
        for (int i = 0; i < 32; i++) printf("%02x", outputs[id][i]);
        putchar('\n');
    }
    encrypt(4, 8), exchange(fd, 1);
}
