/* call MOUNT TEXT: the SHA-256 of TEXT as 64 hex digits, by two ioctls. For a little-endian machine. */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "cryptofs.h"

static struct { struct cryptofs_header h; unsigned char rest[1000]; } r;

static void call(int fd, int operation, int attributes, int payload) {
    r.h = (struct cryptofs_header){ sizeof r.h + attributes + payload, CRYPTOFS_VERSION, operation, 0, 1, 0, attributes };
    if (ioctl(fd, CRYPTOFS_CALL(sizeof r), &r) < 0) err(1, "ioctl");
    if (r.h.status) errx(1, "%.*s", (int)r.h.attributes_size - 4, r.rest + 4);
}

int main(int argc, char **argv) {
    int fd = argc == 3 && !chdir(argv[1]) ? open("crypto", O_RDWR) : -1;
    if (fd < 0) err(1, "crypto");
    memcpy(r.rest, "\1\0\4\0hash" "\2\0\6\0sha256\0", 20); /* CRYPTOFS_ATTR_TYPE and CRYPTOFS_ATTR_NAME */
    call(fd, CRYPTOFS_CONFIGURE, 20, 0);
    call(fd, CRYPTOFS_DIGEST, 0, snprintf((char *)r.rest, sizeof r.rest, "%s", argv[2]));
    for (unsigned i = 0; i < 32; i++) printf("%02x", r.rest[i]);
    puts("");
}
