/* A program of /dev/crypto: devcrypto FILE COMMAND [ARGUMENT…]. It prints what comes out in hexadecimal. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "devcrypto.h"

#define CALL(command, structure) (ioctl(fd, command, structure) ? fail(#command) : (void)0)

static unsigned char key[16] = "0123456789abcdef", in[1 << 17], out[(1 << 17) + 64], mac[64], iv[16];
static int fd;

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(10);
}

static void show(const unsigned char *data, size_t size)
{
	while (size--)
		printf("%02x", *data++);
	printf("\n");
}

static uint32_t begin(uint32_t cipher, uint32_t mac_number)
{
	struct session_op session = { .cipher = cipher, .mac = mac_number };
	if (cipher)
		session.key = key, session.keylen = sizeof key;
	if (mac_number == 18)
		session.mackey = key, session.mackeylen = sizeof key;
	CALL(CIOCGSESSION, &session);
	return session.ses;
}

/* Encrypt size bytes of 7 by AES-CBC, with their HMAC-SHA-256, and back. */
static void cbc(unsigned size)
{
	struct crypt_op op = { .ses = begin(11, 18), .len = size, .src = in, .dst = out, .mac = mac, .iv = iv };
	CALL(CIOCCRYPT, &op);
	show(out, size);
	show(mac, 32);
	op.op = 1, op.src = op.dst = out;
	CALL(CIOCCRYPT, &op);
	if (memcmp(in, out, size))
		fail("the plaintext");
	CALL(CIOCFSESSION, &op.ses);
	if (!ioctl(fd, CIOCCRYPT, &op) || errno != EINVAL)
		fail("a session that has ended");
}

static void gcm(unsigned size)
{
	struct crypt_auth_op op = { .ses = begin(50, 0), .len = size, .auth_len = 8, .auth_src = in, .src = in, .dst = out, .iv = iv };
	CALL(CIOCAUTHCRYPT, &op);
	show(out, op.len);
	op.op = 1, op.src = op.dst = out;
	CALL(CIOCAUTHCRYPT, &op);
	if (op.len != size || memcmp(in, out, size))
		fail("the plaintext");
	op.len = size + 16, op.src = in;
	if (!ioctl(fd, CIOCAUTHCRYPT, &op) || errno != EBADMSG)
		fail("a wrong tag");
}

static void hash(unsigned size)
{
	struct crypt_op op = { .ses = begin(0, 104), .len = size, .src = in, .mac = mac, .flags = 1 };
	struct cphash_op copy = { begin(0, 104), op.ses };
	CALL(CIOCCRYPT, &op);
	CALL(CIOCCPHASH, &copy);
	op.len = 0;
	CALL(CIOCCRYPT, &op);
	show(mac, 32);
	op.ses = copy.dst_ses, op.len = size, op.flags = 2;
	CALL(CIOCCRYPT, &op);
	show(mac, 32);
}

static void later(unsigned size)
{
	struct crypt_op op = { .ses = begin(11, 0), .len = size, .src = in, .dst = out, .iv = iv, .flags = 4 }, done;
	struct pollfd waits = { fd, POLLIN, 0 };
	if (poll(&waits, 1, 0) || !ioctl(fd, CIOCASYNCFETCH, &done) || errno != EBUSY)
		fail("nothing to fetch");
	if (!fork()) {
		usleep(200000);
		CALL(CIOCASYNCCRYPT, &op);
		_exit(0);
	}
	/* The memory is the child's, so that only the poll is of interest here. */
	if (poll(&waits, 1, 20000) != 1 || !(waits.revents & POLLIN))
		fail("poll");
	wait(NULL);
	CALL(CIOCASYNCFETCH, &done);
	CALL(CIOCASYNCCRYPT, &op);
	CALL(CIOCASYNCFETCH, &done);
	if (done.src != op.src || done.len != size || poll(&waits, 1, 0))
		fail("what was fetched");
	show(out, size);
	show(iv, 16);
}

static void information(void)
{
	struct session_info_op info = { .ses = begin(11, 18) };
	uint32_t features = 7;
	CALL(CIOCGSESSINFO, &info);
	CALL(CIOCASYMFEAT, &features);
	printf("%s %s %u %u\n", info.cipher_info.cra_name, info.hash_info.cra_name, info.flags, features);
}

/* Another descriptor of the same open file. */
static void copy(void)
{
	uint32_t number = 0, session = begin(11, 0);
	struct crypt_op op = { .ses = session, .len = 16, .src = in, .dst = out, .iv = iv };
	CALL(CRIOGET, &number);
	if (ioctl(number, CIOCCRYPT, &op))
		fail("the copy");
	close(fd);
	if (ioctl(number, CIOCCRYPT, &op))
		fail("the copy alone");
	show(out, 16);
}

/* What every thread and process does at the same time; wrong bytes end it. */
static void many(int processes, int count)
{
	unsigned char expected[1024];
	struct crypt_op op = { .ses = begin(11, 0), .len = 1024, .src = in, .dst = expected, .iv = iv };
	int status = 0, one;
	CALL(CIOCCRYPT, &op);
	op.dst = out;
	for (int i = 0; i < processes; i++)
		if (!fork()) {
			for (int n = 0; n < count; n++) {
				memset(out, 0, 1024);
				CALL(CIOCCRYPT, &op);
				if (memcmp(out, expected, 1024))
					_exit(1);
			}
			_exit(0);
		}
	while (wait(&one) > 0)
		status |= one;
	printf("%d\n", status);
}

static void pace(unsigned size, int count)
{
	struct crypt_op op = { .ses = begin(11, 0), .len = size, .src = in, .dst = out, .iv = iv };
	struct timespec a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int n = 0; n < count; n++)
		CALL(CIOCCRYPT, &op);
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%.1f us\n", ((b.tv_sec - a.tv_sec) * 1e9 + b.tv_nsec - a.tv_nsec) / 1e3 / count);
}

int main(int argc, char **argv)
{
	const char *command = argc > 2 ? argv[2] : "";
	int size = argc > 3 ? atoi(argv[3]) : 1024, count = argc > 4 ? atoi(argv[4]) : 1000;
	memset(in, 7, sizeof in);
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fail(argv[1]);
	if (!strcmp(command, "cbc"))
		cbc(size);
	else if (!strcmp(command, "gcm"))
		gcm(size);
	else if (!strcmp(command, "hash"))
		hash(size);
	else if (!strcmp(command, "later"))
		later(size);
	else if (!strcmp(command, "info"))
		information();
	else if (!strcmp(command, "copy"))
		copy();
	else if (!strcmp(command, "many"))
		many(size, count);
	else if (!strcmp(command, "pace"))
		pace(size, count);
	else if (!strcmp(command, "wait"))
		begin(11, 0), printf("open\n"), fflush(stdout), pause();
	else if (!strcmp(command, "bad")) {
		struct crypt_op op = { .ses = begin(11, 0), .len = 16, .src = in, .dst = (void *)16 };
		printf("%d ", ioctl(fd, CIOCCRYPT, &op) ? errno : 0);
		op.src = (void *)16;
		printf("%d ", ioctl(fd, CIOCCRYPT, &op) ? errno : 0);
		printf("%d ", ioctl(fd, CIOCGSESSION, (void *)16) ? errno : 0);
		printf("%d ", ioctl(fd, _IO('c', 1), 0) ? errno : 0);
		printf("%d\n", read(fd, in, 16) < 0 ? errno : 0);
	} else
		return 2;
	return 0;
}
