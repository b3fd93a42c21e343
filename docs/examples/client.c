/* client MOUNT: a hash, an AEAD, a device and an error by records, poll and ioctl. On a little-endian machine. */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct header {
    uint32_t size; uint8_t version, operation; uint16_t flags; uint64_t id; uint32_t status, attributes_size;
};
enum { CONFIGURE = 1, ENCRYPT = 16, DECRYPT = 17, DIGEST = 18 };
#define ATTRIBUTE(type, length) type "\0" length "\0"
static unsigned char record[1024]; /* the request, then its answer */
static struct header header;       /* of the answer */
static unsigned char *payload;

static void ask(int fd, int operation, const char *attributes, int size, const void *data, int length) {
    struct header request = { 24 + size + length, 1, operation, 0, 1, 0, size };
    ssize_t got;
    memcpy(record, &request, 24);
    memcpy(record + 24, attributes, size);
    memcpy(record + 24 + size, data, length);
    if (write(fd, record, request.size) < 0) err(1, "write");
    while (poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, -1) < 0 && errno == EINTR); /* or do something else meanwhile */
    while ((got = read(fd, record, sizeof record)) < 0 && errno == EINTR);
    if (got < 24) err(1, "read");
    memcpy(&header, record, 24);
    payload = record + 24 + header.attributes_size;
}
static void print(const char *what) {
    printf("%s ", what);
    while (payload < record + header.size) printf("%02x", *payload++);
    puts("");
}

int main(int argc, char **argv) {
    static const char key[] = ATTRIBUTE("\1", "\4") "aead" ATTRIBUTE("\2", "\10") "gcm(aes)"
        ATTRIBUTE("\3", "\20") "\0\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17";
    static const char iv[] = ATTRIBUTE("\10", "\14") "123456789012" ATTRIBUTE("\11", "\4") "\6\0\0"; /* and a NUL */
    if (argc != 2 || chdir(argv[1])) err(1, "mount");
    int hash = open("crypto", O_RDWR), aead = open("crypto", O_RDWR), mac = open("devices/mac/crypto", O_RDWR);
    ask(hash, CONFIGURE, ATTRIBUTE("\1", "\4") "hash" ATTRIBUTE("\2", "\6") "sha256\0", 20, "", 0);
    ask(hash, DIGEST, "", 0, "abc", 3), print("hash");
    ask(aead, CONFIGURE, key, 40, "", 0);
    ask(aead, ENCRYPT, iv, 24, "headertext", 10);
    char sealed[26] = "header";
    memcpy(sealed + 6, payload, 20), print("aead");
    ask(aead, DECRYPT, iv, 24, sealed, 26), printf("opened %.4s\n", payload);
    ask(mac, DIGEST, "", 0, "abc", 3), print("device");
    sealed[25] ^= 1;
    ask(aead, DECRYPT, iv, 24, sealed, 26);
    printf("error %u %.*s\n", header.status, record[26] | record[27] << 8, record + 28);
    memcpy(record, &(struct header){ 27, 1, DIGEST, 0, 1, 0, 0 }, 24), memcpy(record + 24, "abc", 3);
    if (ioctl(hash, _IOWR('c', 0xC0, record), record)) err(1, "ioctl");
    memcpy(&header, record, 24), payload = record + 24, print("ioctl");
}
