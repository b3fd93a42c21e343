/* AF_ALG by plain system calls: `alg SECTION` prints what each call gives, a line each, for comparison with a kernel. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <linux/if_alg.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#ifndef SOL_ALG
#define SOL_ALG 279
#endif

static unsigned char buffer[1 << 20], text[64];
static struct iovec lots[1025];
static const unsigned char key[32] = "0123456789abcdef0123456789abcdef";
static const unsigned char iv[16] = "an iv, 16 bytes.";

/* A line: what was done, and its value, or its errno. */
static long show(const char *what, long value)
{
	if (value < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, value);
	return value;
}

/* The same with the bytes that came. */
static void bytes(const char *what, long size)
{
	if (size < 0) {
		show(what, size);
		return;
	}
	printf("%s: %ld ", what, size);
	for (long i = 0; i < size && i < 64; i++)
		printf("%02x", buffer[i]);
	printf("\n");
	memset(buffer, 0xee, 4096);
}

static int bound(const char *type, const char *name)
{
	struct sockaddr_alg address = { .salg_family = AF_ALG };
	int fd = socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	strcpy((char *)address.salg_type, type);
	strcpy((char *)address.salg_name, name);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		show(name, -1);
		exit(1);
	}
	return fd;
}

static int keyed(const char *type, const char *name, unsigned size)
{
	int fd = bound(type, name);
	if (setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, size) < 0) {
		show(name, -1);
		exit(1);
	}
	return fd;
}

static int operation(int fd)
{
	int op = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	if (op < 0) {
		show("accept", -1);
		exit(1);
	}
	close(fd);
	return op;
}

/* sendmsg with ALG_SET_OP, an IV of this size and an assoclen; a negative value leaves one out. */
static long say(int op, int encrypt, int iv_size, int assoclen, const void *data, size_t size, int flags)
{
	char control[256] = { 0 };
	struct iovec piece = { (void *)data, size };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control };
	struct cmsghdr *c = (struct cmsghdr *)control;
	int *value;
	if (encrypt >= 0) {
		*c = (struct cmsghdr){ CMSG_LEN(4), SOL_ALG, ALG_SET_OP };
		*(int *)CMSG_DATA(c) = encrypt;
		message.msg_controllen += CMSG_SPACE(4);
	}
	if (iv_size >= 0) {
		c = (struct cmsghdr *)(control + message.msg_controllen);
		*c = (struct cmsghdr){ CMSG_LEN(4 + iv_size), SOL_ALG, ALG_SET_IV };
		value = (int *)CMSG_DATA(c);
		*value = iv_size;
		memcpy(value + 1, iv, iv_size < 16 ? iv_size : 16);
		message.msg_controllen += CMSG_SPACE(4 + iv_size);
	}
	if (assoclen >= 0) {
		c = (struct cmsghdr *)(control + message.msg_controllen);
		*c = (struct cmsghdr){ CMSG_LEN(4), SOL_ALG, ALG_SET_AEAD_ASSOCLEN };
		*(int *)CMSG_DATA(c) = assoclen;
		message.msg_controllen += CMSG_SPACE(4);
	}
	return sendmsg(op, &message, flags);
}

static void sockets(void)
{
	struct sockaddr_alg address = { .salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha256" };
	struct sockaddr *any = (struct sockaddr *)&address;
	socklen_t size = sizeof(address);
	int pair[2], fd, op, number = 0;

	show("a stream", socket(AF_ALG, SOCK_STREAM, 0));
	show("a protocol", socket(AF_ALG, SOCK_SEQPACKET, 1));
	show("a pair", socketpair(AF_ALG, SOCK_SEQPACKET, 0, pair));
	fd = socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	show("flags", fcntl(fd, F_GETFD) | (fcntl(fd, F_GETFL) & O_NONBLOCK));
	show("accept before bind", accept(fd, NULL, NULL));
	show("a key before bind", setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, 16));
	show("send before bind", send(fd, "a", 1, 0));
	show("recv before bind", recv(fd, buffer, 1, 0));
	show("an empty address", bind(fd, any, 0));
	show("a short address", bind(fd, any, 24));
	show("a large address", bind(fd, any, 129));
	show("no memory", bind(fd, (void *)8, sizeof(address)));
	address.salg_feat = 1;
	show("a feature", bind(fd, any, sizeof(address)));
	address.salg_feat = 0;
	address.salg_type[0] = 'H';
	show("an unknown type", bind(fd, any, sizeof(address)));
	address.salg_type[0] = 'h';
	address.salg_name[0] = 'S';
	show("an unknown name", bind(fd, any, sizeof(address)));
	address.salg_name[0] = 's';
	show("a name without its end", bind(fd, any, 24 + 6));
	show("bind", bind(fd, any, 24 + 7));
	show("bind again", bind(fd, any, sizeof(address)));
	show("getsockname", getsockname(fd, any, &size));
	show("getpeername", getpeername(fd, any, &size));
	show("connect", connect(fd, any, sizeof(address)));
	show("listen", listen(fd, 1));
	show("shutdown", shutdown(fd, SHUT_RDWR));
	size = sizeof(number);
	show("SO_DOMAIN", getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &number, &size));
	show("its value", number);
	show("SO_TYPE", getsockopt(fd, SOL_SOCKET, SO_TYPE, &number, &size));
	show("its value", number);
	show("getsockopt", getsockopt(fd, SOL_ALG, ALG_SET_KEY, &number, &size));
	show("SO_SNDBUF", setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &number, sizeof(number)));
	show("a key that it does not take", setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, 16));
	show("no option", setsockopt(fd, SOL_ALG, 99, key, 16));
	show("another level", setsockopt(fd, 6, 1, key, 4));
	show("a tag of a hash", setsockopt(fd, SOL_ALG, ALG_SET_AEAD_AUTHSIZE, NULL, 4));
	show("entropy of a hash", setsockopt(fd, SOL_ALG, ALG_SET_DRBG_ENTROPY, key, 16));
	show("send on a bound one", send(fd, "a", 1, 0));
	show("accept with an address", accept(fd, any, &size));
	op = accept(fd, NULL, NULL);
	show("flags of an accepted one", fcntl(op, F_GETFD) | (fcntl(op, F_GETFL) & O_NONBLOCK));
	show("bind while it is open", bind(fd, any, sizeof(address)));
	show("an option while it is open", setsockopt(fd, SOL_ALG, 99, key, 16));
	show("an option of it", setsockopt(op, SOL_ALG, ALG_SET_KEY, key, 16));
	show("bind of it", bind(op, any, sizeof(address)));
	show("getsockname of it", getsockname(op, any, &size));
	close(op);
	show("bind behind it", bind(fd, any, sizeof(address)));
	show("pread", pread(fd, buffer, 1, 0));
	show("lseek", lseek(fd, 0, SEEK_CUR));
	close(fd);
	fd = bound("aead", "gcm(aes)");
	show("a tag of 16", setsockopt(fd, SOL_ALG, ALG_SET_AEAD_AUTHSIZE, NULL, 16));
	show("a tag of 17", setsockopt(fd, SOL_ALG, ALG_SET_AEAD_AUTHSIZE, NULL, 17));
	show("a tag of 7", setsockopt(fd, SOL_ALG, ALG_SET_AEAD_AUTHSIZE, NULL, 7));
	show("a tag of 0", setsockopt(fd, SOL_ALG, ALG_SET_AEAD_AUTHSIZE, NULL, 0));
	show("a key of 15 bytes", setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, 15));
	show("a key without memory", setsockopt(fd, SOL_ALG, ALG_SET_KEY, (void *)8, 16));
	show("a key of a negative size", setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, -1));
	op = accept(fd, NULL, NULL);
	show("an operation without a key", op < 0 ? -1 : 0);
	show("send without a key", send(op, "a", 1, 0));
	show("recv without a key", recv(op, buffer, 1, MSG_DONTWAIT));
	show("a key beside it", setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, 16));
	show("and another", setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, 16));
	show("send", say(op, 1, 12, 0, "a", 1, 0));
	show("a key beside it", setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, 16));
	close(op);
	show("a key behind it", setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, 16));
	show("accept of it", accept(op, NULL, NULL));
	close(fd);
}

static void hash(void)
{
	struct iovec out[2] = { { "a", 1 }, { "bc", 2 } }, in[2] = { { buffer, 3 }, { buffer + 3, 29 } };
	struct msghdr message = { .msg_iov = in, .msg_iovlen = 1, .msg_flags = 77, .msg_controllen = 99 };
	struct mmsghdr many[3] = { { { .msg_iov = out, .msg_iovlen = 2 }, 0 }, { { .msg_iov = out, .msg_iovlen = 1 }, 0 } };
	char name[64];
	socklen_t size = sizeof(name);
	int op = operation(bound("hash", "sha256")), clone, fd;

	bytes("nothing sent", recv(op, buffer, 32, 0));
	show("abc", send(op, "abc", 3, 0));
	bytes("its digest", recv(op, buffer, 64, 0));
	bytes("a second time", recv(op, buffer, 64, 0));
	show("by write", write(op, "abc", 3));
	bytes("by read", read(op, buffer, 32));
	show("by writev", writev(op, out, 2));
	bytes("by readv", readv(op, in, 2));
	show("abc", send(op, "abc", 3, 0));
	bytes("a short receive", recv(op, buffer, 4, 0));
	bytes("the rest is lost", recv(op, buffer, 32, 0));
	show("abc", send(op, "abc", 3, 0));
	show("read of nothing", read(op, buffer, 0));
	bytes("does no harm", recv(op, buffer, 32, 0));
	show("abc", send(op, "abc", 3, 0));
	show("recv of nothing", recv(op, buffer, 0, 0));
	bytes("does", recv(op, buffer, 32, 0));
	show("a", send(op, "a", 1, MSG_MORE));
	show("b", send(op, "b", 1, MSG_MORE));
	clone = accept(op, NULL, NULL);
	show("c", send(clone, "c", 1, 0));
	bytes("of the clone", recv(clone, buffer, 32, 0));
	bytes("of the other", recv(op, buffer, 32, 0));
	close(clone);
	show("nothing, with more", send(op, "", 0, MSG_MORE));
	show("abc", send(op, "abc", 3, MSG_MORE));
	show("nothing, the last", send(op, "", 0, 0));
	bytes("of both", recv(op, buffer, 32, 0));
	show("abc", send(op, "abc", 3, 0));
	show("nothing", send(op, "", 0, 0));
	bytes("of the last", recv(op, buffer, 32, 0));
	show("abc, in one", send(op, "abc", 3, 0));
	show("x, in one", send(op, "x", 1, 0));
	bytes("of the last", recv(op, buffer, 32, 0));
	show("abc", send(op, "abc", 3, 0));
	show("recvmsg", recvmsg(op, &message, 0));
	show("its flags", message.msg_flags);
	show("its controllen", message.msg_controllen);
	show("abc", send(op, "abc", 3, 0));
	show("recvfrom", recvfrom(op, buffer, 32, 0, (void *)name, &size));
	show("its size", size);
	show("sendmmsg", sendmmsg(op, many, 2, 0));
	show("of the first", many[0].msg_len);
	bytes("of the second", recv(op, buffer, 32, 0));
	many[0].msg_hdr = (struct msghdr){ .msg_iov = in, .msg_iovlen = 2 };
	show("recvmmsg", recvmmsg(op, many, 1, 0, NULL));
	show("of it", many[0].msg_len);
	many[1].msg_hdr = (struct msghdr){ .msg_iov = in + 1, .msg_iovlen = 1 };
	show("abc", send(op, "abc", 3, 0));
	show("recvmmsg of two", recvmmsg(op, many, 2, 0, NULL));
	show("of the first", many[0].msg_len);
	show("of the second", many[1].msg_len);
	bytes("both", 32);
	show("send without memory", send(op, (void *)8, 3, 0));
	show("abc", send(op, "abc", 3, 0));
	show("recv without memory", recv(op, (void *)8, 32, 0));
	show("too many pieces", writev(op, lots, 1025));
	message.msg_iov = lots;
	message.msg_iovlen = 1025;
	show("too many of sendmsg", sendmsg(op, &message, 0));
	show("a megabyte", send(op, memset(buffer, 7, 1 << 20), 1 << 20, 0));
	bytes("its digest", recv(op, buffer, 32, 0));
	close(op);
	fd = keyed("hash", "hmac(sha256)", 32);
	op = operation(fd);
	show("abc", send(op, "abc", 3, 0));
	bytes("with a key", recv(op, buffer, 32, 0));
	close(op);
	op = operation(bound("hash", "hmac(sha256)"));
	show("send without a key", send(op, "abc", 3, 0));
	show("recv without a key", recv(op, buffer, 32, 0));
	show("a clone without a key", accept(op, NULL, NULL));
	close(op);
}

static void cipher(void)
{
	int op = operation(keyed("skcipher", "cbc(aes)", 16));

	fcntl(op, F_SETFL, O_NONBLOCK);
	show("nothing sent", read(op, buffer, 16));
	show("accept", accept(op, NULL, NULL));
	show("cbc in one", say(op, 1, 16, -1, text, 64, 0));
	bytes("all", read(op, buffer, 64));
	show("in parts", say(op, 1, 16, -1, text, 32, MSG_MORE));
	bytes("the first", read(op, buffer, 32));
	show("too early", read(op, buffer, 32));
	show("the rest", send(op, text, 32, 0));
	bytes("the rest", read(op, buffer, 32));
	show("without an IV", say(op, 1, -1, -1, text, 32, 0));
	bytes("it goes on", read(op, buffer, 32));
	show("decrypt", say(op, 0, 16, -1, text, 32, 0));
	bytes("all", read(op, buffer, 32));
	show("without control messages", send(op, text, 16, 0));
	bytes("it goes on", read(op, buffer, 16));
	show("without an operation", say(op, -1, 16, -1, text, 16, 0));
	bytes("is decrypted", read(op, buffer, 16));
	show("in two", say(op, 1, 16, -1, text, 64, 0));
	bytes("a block", read(op, buffer, 16));
	bytes("two and a bit", read(op, buffer, 40));
	bytes("the rest", read(op, buffer, 64));
	show("a message", say(op, 1, 16, -1, text, 16, 0));
	show("a second", say(op, 1, 16, -1, text, 16, 0));
	bytes("the first", read(op, buffer, 16));
	show("a wrong size", say(op, 1, 16, -1, text, 17, 0));
	show("is refused", read(op, buffer, 17));
	show("and gone", read(op, buffer, 17));
	show("an IV of 8 bytes", say(op, 1, 8, -1, text, 16, 0));
	show("an operation 2", say(op, 2, 16, -1, text, 16, 0));
	show("nothing", say(op, 1, 16, -1, text, 0, 0));
	bytes("gives nothing", read(op, buffer, 16));
	show("nothing, with more", say(op, 1, 16, -1, text, 0, MSG_MORE));
	show("has no answer", read(op, buffer, 16));
	show("a bit more", send(op, text, 8, MSG_MORE));
	show("no block", read(op, buffer, 16));
	show("the rest", send(op, text, 8, 0));
	bytes("a block", read(op, buffer, 16));
	show("room for less than a block", say(op, 1, 16, -1, text, 16, 0));
	bytes("gives nothing", read(op, buffer, 8));
	bytes("and stays", read(op, buffer, 16));
	show("MSG_DONTWAIT", recv(op, buffer, 16, MSG_DONTWAIT));
	close(op);
	op = operation(keyed("skcipher", "ctr(aes)", 16));
	show("ctr", say(op, 1, 16, -1, text, 21, 0));
	bytes("all", read(op, buffer, 21));
	show("without an IV", say(op, 1, -1, -1, text, 21, 0));
	bytes("it goes on", read(op, buffer, 21));
	show("in parts", say(op, 1, 16, -1, text, 20, MSG_MORE));
	bytes("a block", recv(op, buffer, 16, MSG_DONTWAIT));
	show("the rest", send(op, text, 7, 0));
	bytes("the rest", read(op, buffer, 11));
	close(op);
	op = operation(keyed("skcipher", "ecb(aes)", 16));
	show("ecb", say(op, 1, 0, -1, text, 32, 0));
	bytes("all", read(op, buffer, 32));
	show("an IV", say(op, 1, 16, -1, text, 32, 0));
	show("the largest that waits", say(op, 1, -1, -1, memset(buffer, 9, 65536), 65536, 0));
	show("all of it", read(op, buffer, 65536));
	close(op);

	op = bound("skcipher", "ecb(cipher_null)");
	show("a key of the null cipher", setsockopt(op, SOL_ALG, ALG_SET_KEY, key, 16));
	show("its empty key", setsockopt(op, SOL_ALG, ALG_SET_KEY, key, 0));
	op = operation(op);
	show("send", say(op, 1, -1, -1, key, 32, 0));
	bytes("the same", read(op, buffer, 32));
	close(op);
}

static void aead(void)
{
	int fd = bound("aead", "gcm(aes)"), op, i;
	unsigned char sealed[64];

	show("a tag of 12", setsockopt(fd, SOL_ALG, ALG_SET_AEAD_AUTHSIZE, NULL, 12));
	show("a key", setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, 16));
	show("a tag of 16", setsockopt(fd, SOL_ALG, ALG_SET_AEAD_AUTHSIZE, NULL, 16));
	op = operation(fd);
	fcntl(op, F_SETFL, O_NONBLOCK);
	show("nothing sent", read(op, buffer, 16));
	show("gcm", say(op, 1, 12, 4, text, 24, 0));
	i = read(op, buffer, 40);
	memcpy(sealed, buffer, 40);
	bytes("sealed", i);
	show("open it", say(op, 0, 12, 4, sealed, 40, 0));
	bytes("opened", read(op, buffer, 24));
	sealed[39] ^= 1;
	show("a wrong tag", say(op, 0, 12, 4, sealed, 40, 0));
	show("is refused", read(op, buffer, 24));
	show("and gone", read(op, buffer, 24));
	show("in parts", say(op, 1, 12, 4, text, 4, MSG_MORE));
	show("too early", read(op, buffer, 40));
	show("the rest", send(op, text + 4, 20, 0));
	bytes("the same", read(op, buffer, 40));
	show("with another assoclen", say(op, 1, 12, -1, text, 24, 0));
	bytes("of none", read(op, buffer, 40));
	show("an assoclen over the end", say(op, 1, 12, 30, text, 24, 0));
	show("is refused", read(op, buffer, 40));
	show("and stays", say(op, 1, 12, 4, text, 24, 0));
	close(op);
	op = operation(keyed("aead", "gcm(aes)", 16));
	show("no room for the tag", say(op, 1, 12, 4, text, 24, 0));
	bytes("less of the text", read(op, buffer, 30));
	bytes("the rest is a message", read(op, buffer, 26));
	close(op);
	op = operation(keyed("aead", "gcm(aes)", 16));
	show("associated data alone", say(op, 1, 12, 24, text, 24, 0));
	bytes("its tag", read(op, buffer, 40));
	show("nothing at all", say(op, 1, 12, 0, text, 0, 0));
	bytes("a tag", read(op, buffer, 16));
	show("decrypt too little", say(op, 0, 12, 0, text, 15, 0));
	show("is refused", recv(op, buffer, 16, MSG_DONTWAIT));
	close(op);
}

static void rng(void)
{
	int fd = bound("rng", "stdrng"), op;

	show("a seed", setsockopt(fd, SOL_ALG, ALG_SET_KEY, "", 0));
	op = operation(fd);
	show("16 bytes", read(op, buffer, 16));
	show("not more than 128", read(op, buffer, 1000));
	show("nothing", recv(op, buffer, 0, 0));
	show("send", send(op, "a", 1, 0));
	show("accept", accept(op, NULL, NULL));
	close(op);
}

static void pipes(void)
{
	char path[] = "/tmp/alg.XXXXXX";
	struct iovec piece = { "abc", 3 };
	int op = operation(bound("hash", "sha256")), ends[2], file = mkstemp(path);
	off_t at = 1;
	pid_t child;

	unlink(path);
	show("pipe", pipe(ends));
	show("vmsplice", vmsplice(ends[1], &piece, 1, 0));
	show("splice", splice(ends[0], NULL, op, NULL, 3, 0));
	bytes("its digest", read(op, buffer, 32));
	show("write", write(ends[1], "ab", 2));
	show("splice with more", splice(ends[0], NULL, op, NULL, 2, SPLICE_F_MORE));
	show("write", write(ends[1], "c", 1));
	show("splice", splice(ends[0], NULL, op, NULL, 1, 0));
	bytes("its digest", read(op, buffer, 32));
	show("an empty pipe", splice(ends[0], NULL, op, NULL, 1, SPLICE_F_NONBLOCK));
	child = fork();
	if (!child) {
		usleep(100000);
		_exit(write(ends[1], "abc", 3) != 3);
	}
	show("splice that waits", splice(ends[0], NULL, op, NULL, 100, 0));
	bytes("its digest", read(op, buffer, 32));
	waitpid(child, NULL, 0);
	show("write", write(op, "abc", 3));
	show("splice out", splice(op, NULL, ends[1], NULL, 32, 0));
	bytes("its digest", read(ends[0], buffer, 32));
	close(ends[1]);
	show("the end of a pipe", splice(ends[0], NULL, op, NULL, 1, 0));
	close(ends[0]);
	show("write", write(file, "xabc", 4));
	show("sendfile", sendfile(op, file, &at, 3));
	show("its offset", at);
	bytes("its digest", read(op, buffer, 32));
	show("seek", lseek(file, 1, SEEK_SET));
	show("sendfile to the end", sendfile(op, file, NULL, 100));
	show("its position", lseek(file, 0, SEEK_CUR));
	bytes("its digest", read(op, buffer, 32));
	close(op);
	op = operation(keyed("skcipher", "ecb(aes)", 16));
	show("pipe", pipe(ends));
	show("an operation", say(op, 1, -1, -1, NULL, 0, MSG_MORE));
	show("write", write(ends[1], text, 32));
	show("splice", splice(ends[0], NULL, op, NULL, 32, 0));
	bytes("encrypted", read(op, buffer, 32));
	close(op);
	close(file);
}

static void aio(void)
{
	aio_context_t context = 0;
	struct iocb block[2] = { 0 }, *list[2] = { &block[0], &block[1] };
	struct io_event event[2];
	int op = operation(keyed("skcipher", "cbc(aes)", 16)), done = eventfd(0, 0);
	unsigned long long count;

	show("io_setup", syscall(SYS_io_setup, 8, &context));
	for (int i = 0; i < 2; i++)
		block[i] = (struct iocb){ .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = op, .aio_data = i,
					  .aio_buf = (unsigned long)buffer + 32 * i, .aio_nbytes = 32,
					  .aio_flags = IOCB_FLAG_RESFD, .aio_resfd = done };
	show("send", say(op, 1, 16, -1, text, 32, 0));
	show("io_submit", syscall(SYS_io_submit, context, 1, list));
	show("eventfd", read(done, &count, 8) == 8 ? (long)count : -1);
	show("io_getevents", syscall(SYS_io_getevents, context, 1, 1, event, NULL));
	show("its result", event[0].res);
	bytes("encrypted", 32);
	show("send two", say(op, 1, 16, -1, text, 64, 0));
	show("io_submit", syscall(SYS_io_submit, context, 2, list));
	show("io_getevents", syscall(SYS_io_getevents, context, 2, 2, event, NULL));
	show("the first result", event[0].res);
	show("the second result", event[1].res);
	bytes("encrypted", 64);
	show("send a wrong size", say(op, 1, 16, -1, text, 17, 0));
	show("io_submit", syscall(SYS_io_submit, context, 1, list));
	show("io_getevents", syscall(SYS_io_getevents, context, 1, 1, event, NULL));
	show("its result is an errno", -event[0].res);
	show("send", say(op, 1, 16, -1, text, 32, 0));
	bytes("read", read(op, buffer, 32));
	close(op);

	op = operation(bound("hash", "sha256"));
	for (int i = 0; i < 2; i++)
		block[i] = (struct iocb){ .aio_lio_opcode = i ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE, .aio_fildes = op,
					  .aio_buf = (unsigned long)(i ? buffer : text), .aio_nbytes = 32 };
	show("a write and a read", syscall(SYS_io_submit, context, 2, list));
	show("io_getevents", syscall(SYS_io_getevents, context, 2, 2, event, NULL));
	show("the write's result", event[0].res);
	show("the read's result", event[1].res);
	bytes("digest", 32);
	show("send", send(op, text, 32, 0));
	bytes("the same", read(op, buffer, 32));
	close(op);
	op = operation(keyed("skcipher", "ecb(aes)", 16));
	block[0].aio_fildes = block[1].aio_fildes = op;
	block[1] = block[0];
	show("two messages", syscall(SYS_io_submit, context, 2, list));
	show("io_getevents", syscall(SYS_io_getevents, context, 2, 2, event, NULL));
	show("the first result", event[0].res);
	show("the second is an errno", -event[1].res);
	bytes("decrypted", read(op, buffer, 32));
	close(op);
	op = operation(bound("hash", "hmac(sha256)"));
	block[0].aio_fildes = op;
	show("a write without a key", syscall(SYS_io_submit, context, 1, list));
	show("io_getevents", syscall(SYS_io_getevents, context, 1, 1, event, NULL));
	show("its result is an errno", -event[0].res);
	show("io_destroy", syscall(SYS_io_destroy, context));
	close(op);
}

static int is_abc(int op)
{
	static const unsigned char abc[4] = { 0xba, 0x78, 0x16, 0xbf };
	unsigned char digest[32];
	return send(op, "abc", 3, 0) == 3 && read(op, digest, 32) == 32 && !memcmp(digest, abc, 4);
}

static long status_of(pid_t child)
{
	int status = -1;
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static void processes(void)
{
	int fd = bound("hash", "sha256"), op = accept(fd, NULL, NULL), copy;
	char number[12];
	pid_t child;

	close(fd);
	show("behind the bound one's close", is_abc(op));
	sprintf(number, "%d", op);
	for (int i = 0; i < 4; i++) {
		child = i == 2 ? vfork() : fork();
		if (!child) {
			if (i == 3)
				fcntl(op, F_SETFD, FD_CLOEXEC);
			if (i)
				execl("/proc/self/exe", "alg", "digest", number, NULL);
			_exit(!is_abc(op));
		}
		show(i == 0 ? "fork" : i == 1 ? "fork, exec" : i == 2 ? "vfork, exec" : "close-on-exec", status_of(child));
	}
	copy = dup(op);
	show("dup", is_abc(copy));
	close(op);
	show("behind the other's close", is_abc(copy));
	op = fcntl(copy, F_DUPFD_CLOEXEC, 10);
	show("F_DUPFD_CLOEXEC", is_abc(op) && fcntl(op, F_GETFD) == FD_CLOEXEC && op >= 10);
	close(copy);
	copy = fcntl(op, F_DUPFD, 100);
	show("F_DUPFD", is_abc(copy) && copy >= 100);
	show("dup2 to 2000", dup2(op, 2000) == 2000 && is_abc(2000));
	show("dup3 to 2000", dup3(op, 2000, O_CLOEXEC) == 2000 && is_abc(2000));
	show("dup2 to itself", dup2(op, op) == op);
	child = fork();
	if (!child) {
		/* A daemon: its parent ends, and it goes on. */
		if (fork())
			_exit(0);
		setsid();
		usleep(200000);
		show("a daemon", is_abc(op));
		fflush(stdout);
		_exit(0);
	}
	show("its parent", status_of(child));
	usleep(600000);
}

static void polling(void)
{
	int op = operation(keyed("skcipher", "ecb(aes)", 16)), e = epoll_create1(0);
	struct epoll_event event = { EPOLLIN, { 0 } }, got;
	struct pollfd one = { op, POLLIN | POLLOUT, 0 };
	struct timeval second = { 1, 0 };
	fd_set set;

	say(op, 1, -1, -1, text, 16, 0);
	show("poll", poll(&one, 1, 1000));
	show("its events", one.revents);
	show("epoll_ctl", epoll_ctl(e, EPOLL_CTL_ADD, op, &event));
	show("epoll_wait", epoll_wait(e, &got, 1, 1000));
	FD_ZERO(&set);
	FD_SET(op, &set);
	show("select", select(op + 1, &set, NULL, NULL, &second));
	show("is set", !!FD_ISSET(op, &set));
	bytes("read", read(op, buffer, 16));
	close(op);
}

static volatile int ticks;
static void tick(int number) { ticks += number == SIGALRM; }
static void *late(void *op)
{
	usleep(100000);
	send(*(int *)op, text, 16, 0);
	return NULL;
}

static void *hammer(void *rounds)
{
	long bad = 0;
	int fd = bound("hash", "sha256");
	for (long i = 0; i < (long)rounds; i++) {
		int op = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		bad += op < 0 || !is_abc(op);
		close(op);
	}
	close(fd);
	return (void *)bad;
}

/* 8 threads; with a storm a signal each half millisecond. */
static void threads(int storm)
{
	struct sigaction action = { .sa_handler = tick, .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 500 }, { 0, 500 } }, never = { { 0, 0 }, { 0, 0 } };
	pthread_t thread[8];
	long bad = 0;
	void *result;

	sigaction(SIGALRM, &action, NULL);
	if (storm)
		setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 8; i++)
		pthread_create(&thread[i], NULL, hammer, (void *)(storm ? 100L : 40L));
	for (int i = 0; i < 8; i++) {
		pthread_join(thread[i], &result);
		bad += (long)result;
	}
	setitimer(ITIMER_REAL, &never, NULL);
	show("wrong digests", bad);
	show("signals came", !storm || ticks > 10);
}

static void *late_twice(void *op)
{
	for (int i = 0; i < 2; i++) {
		usleep(100000);
		send(*(int *)op, text, 16, 0);
	}
	return NULL;
}

/* How many messages came, and their sizes. */
static void several(const char *what, int op, int flags)
{
	struct iovec piece[2] = { { buffer, 16 }, { buffer + 16, 16 } };
	struct mmsghdr message[2] = { 0 };
	long count;
	for (int i = 0; i < 2; i++) {
		message[i].msg_hdr.msg_iov = &piece[i];
		message[i].msg_hdr.msg_iovlen = 1;
		message[i].msg_len = 7;
	}
	count = show(what, recvmmsg(op, message, 2, flags, NULL));
	for (int i = 0; i < count; i++)
		show("size", message[i].msg_len);
}

static void waiting(void)
{
	struct sigaction action = { .sa_handler = tick };
	struct itimerval once = { { 0, 0 }, { 0, 100000 } };
	int op = operation(keyed("skcipher", "ecb(aes)", 16));
	pthread_t thread;

	say(op, 1, -1, -1, text, 0, MSG_MORE);
	pthread_create(&thread, NULL, late, &op);
	bytes("a read that waits for another thread", read(op, buffer, 16));
	pthread_join(thread, NULL);
	sigaction(SIGALRM, &action, NULL);
	say(op, 1, -1, -1, text, 0, MSG_MORE);
	setitimer(ITIMER_REAL, &once, NULL);
	show("a read that a signal ends", read(op, buffer, 16));
	show("signals", ticks);
	action.sa_flags = SA_RESTART;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &once, NULL);
	pthread_create(&thread, NULL, late, &op);
	bytes("a read that goes on behind a signal", read(op, buffer, 16));
	pthread_join(thread, NULL);
	say(op, 1, -1, -1, text, 0, MSG_MORE);
	pthread_create(&thread, NULL, late_twice, &op);
	several("several that come late", op, 0);
	pthread_join(thread, NULL);
	say(op, 1, -1, -1, text, 0, MSG_MORE);
	pthread_create(&thread, NULL, late, &op);
	several("one that comes late", op, MSG_WAITFORONE);
	pthread_join(thread, NULL);
	close(op);
}

static void many(void)
{
	static int made[1000];
	int fd = bound("hash", "sha256"), good = 0, i;

	for (i = 0; i < 1000 && (made[i] = accept(fd, NULL, NULL)) >= 0; i++)
		;
	show("operations", i);
	while (i--)
		good += is_abc(made[i]);
	show("good ones", good);
}

/* What depends on --wide. */
static void numbers(void)
{
	int op = operation(bound("hash", "sha256"));

	show("below 512", op < 512);
	show("dup2 to 20", dup2(op, 20));
	show("works", is_abc(20));
}

/* A program that nobody may look into from some time on. */
static long message_with(int op, int kind, unsigned value)
{
	char control[CMSG_SPACE(4)] = { 0 };
	struct iovec piece = { buffer, 16 };
	struct msghdr head = { NULL, 0, &piece, 1, control, sizeof(control), 0 };
	struct cmsghdr *first = CMSG_FIRSTHDR(&head);
	first->cmsg_len = CMSG_LEN(4);
	first->cmsg_level = SOL_ALG;
	first->cmsg_type = kind;
	memcpy(CMSG_DATA(first), &value, 4);
	return sendmsg(op, &head, 0);
}

static long message(int op, int sends, void *name, unsigned name_size, struct iovec *pieces, size_t count)
{
	struct msghdr head = { name, name_size, pieces, count, NULL, 0, 0 };
	return sends ? sendmsg(op, &head, 0) : recvmsg(op, &head, MSG_DONTWAIT);
}

/* What the kernel checks of any socket, and in which order. */
static void edges(void)
{
	void *const beyond = (void *)0xffff800000000000;
	struct iovec piece = { buffer, 16 }, none = { buffer, 0 }, bad = { NULL, 16 }, high[2] = { piece, { beyond, 16 } };
	struct timespec now = { 0, 0 }, never = { 0, -1 };
	struct mmsghdr several[2] = { { { NULL, 0, &piece, 1, NULL, 0, 0 }, 0 }, { { NULL, 0, &piece, 1, NULL, 0, 0 }, 0 } };
	int pair[2], fd = keyed("skcipher", "cbc(aes)", 16), op = accept(fd, NULL, NULL), hmac = bound("hash", "hmac(sha256)");
	int pipes[2], value = 4;
	off_t offset = 5;
	socklen_t size;
	show("an unknown flag of socket", socket(AF_ALG, SOCK_SEQPACKET | 0x100, 0));
	show("an unknown type of socket", socket(AF_ALG, 15, 0));
	show("an unknown flag of a pair", socketpair(AF_ALG, SOCK_SEQPACKET | 0x100, 0, pair));
	show("a pair without memory", socketpair(AF_ALG, SOCK_SEQPACKET, 0, NULL));
	show("a pair of streams", socketpair(AF_ALG, SOCK_STREAM, 0, pair));
	show("an unknown flag of accept", accept4(fd, NULL, NULL, 1));
	show("connect to nothing", connect(fd, (struct sockaddr *)buffer, 0));
	show("connect to too much", connect(fd, (struct sockaddr *)buffer, 129));
	show("connect without memory", connect(fd, NULL, 88));
	show("a key without memory, busy", setsockopt(fd, SOL_ALG, ALG_SET_KEY, NULL, 16));
	show("a key of an operation", setsockopt(op, SOL_ALG, ALG_SET_KEY, NULL, 16));
	show("a key without memory", setsockopt(hmac, SOL_ALG, ALG_SET_KEY, NULL, 16));
	show("a key of 131,072 bytes", setsockopt(hmac, SOL_ALG, ALG_SET_KEY, buffer, 131072));
	show("a key of a level that is not there", setsockopt(hmac, 280, ALG_SET_KEY, NULL, 131072));
	for (int option = 16; option <= 42; option += 26) {
		size = sizeof(value);
		show("an option of pairs", getsockopt(op, SOL_SOCKET, option, &value, &size));
		show("setting it", setsockopt(op, SOL_SOCKET, option, &value, sizeof(value)));
		show("setting two bytes of it", setsockopt(op, SOL_SOCKET, option, &value, 2));
	}
	size = 12;
	show("SO_PEERCRED", getsockopt(op, SOL_SOCKET, SO_PEERCRED, buffer, &size));
	bytes("its value", size);
	show("a name of a negative size", message(op, 1, buffer, -1u, &piece, 1));
	show("a name without memory", message(op, 1, NULL + 8, 16, &piece, 1));
	show("to receive with one of a negative size", message(op, 0, buffer, -1u, &piece, 1));
	show("sendto with a long name", sendto(op, buffer, 16, 0, (struct sockaddr *)buffer, 129));
	show("memory of the kernel's, unused", message(op, 0, NULL, 0, high, 2));
	show("read into it", read(op, beyond, 16));
	show("sendmsg, without a key and memory", message(accept(hmac, NULL, NULL), 1, NULL, 0, &bad, 1));
	show("sendmsg, of what has no messages", message(fd, 1, NULL, 0, &bad, 1));
	show("writev of nothing, without a key", writev(accept(hmac, NULL, NULL), &none, 1));
	show("preadv2 that does not wait", preadv2(op, &piece, 1, -1, RWF_NOWAIT));
	show("preadv2 with an unknown flag", preadv2(op, &piece, 1, -1, 1 << 30));
	show("preadv2 with it, of nothing", preadv2(op, &none, 1, -1, 1 << 30));
	show("recvmmsg until no time", recvmmsg(op, several, 2, MSG_DONTWAIT, &never));
	show("recvmmsg until no memory", recvmmsg(op, several, 2, MSG_DONTWAIT, NULL + 8));
	show("send", send(op, buffer, 64, 0));
	show("recvmmsg until now", recvmmsg(op, several, 2, MSG_DONTWAIT, &now));
	several[0].msg_hdr.msg_flags = 0;
	show("recvmsg with MSG_CMSG_CLOEXEC", recvmsg(op, &several[0].msg_hdr, MSG_CMSG_CLOEXEC));
	show("its flags", several[0].msg_hdr.msg_flags);
	show("pipe", pipe(pipes));
	show("sendfile into a pipe", sendfile(pipes[1], op, NULL, 16));
	show("what came", read(pipes[0], buffer, 64));
	show("sendfile to a file", sendfile(open("/dev/null", O_WRONLY), op, NULL, 16));
	show("splice with an unknown flag", splice(op, NULL, pipes[1], NULL, 16, 32));
	show("splice of nothing", splice(hmac, NULL, pipes[1], NULL, 0, 32));
	show("sendfile beyond all offsets", sendfile(op, open("/proc/self/exe", O_RDONLY), &offset, LONG_MAX));
	fd = keyed("aead", "gcm(aes)", 16);
	show("assoclen 0x80000000", message_with(accept(fd, NULL, NULL), ALG_SET_AEAD_ASSOCLEN, 0x80000000));
	show("assoclen 0x7fffffff", message_with(accept(fd, NULL, NULL), ALG_SET_AEAD_ASSOCLEN, 0x7fffffff));
	op = accept(bound("hash", "sha256"), NULL, NULL);
	show("send", send(op, "abc", 3, 0));
	show("writev of nothing", writev(op, &none, 1));
	bytes("the digest is still there", read(op, buffer, 32));
}

static void hidden(void)
{
	int fd = bound("hash", "sha256"), op = accept(fd, NULL, NULL);

	show("send", send(op, "abc", 3, 0));
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	bytes("receive", recv(op, buffer, 32, 0));
	bytes("read", read(op, buffer, 32));
	show("send", send(op, "abc", 3, 0));
	show("accept", accept(fd, NULL, NULL) < 0 ? -1 : 0);
	show("socket", socket(AF_ALG, SOCK_SEQPACKET, 0) < 0 ? -1 : 0);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	bytes("receive", recv(op, buffer, 32, 0));
}

int main(int count, char **words)
{
	const char *section = count > 1 ? words[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	memset(text, 'x', sizeof(text));
	if (count > 2)
		return !is_abc(atoi(words[2]));
	if (!strcmp(section, "sockets")) sockets();
	else if (!strcmp(section, "hash")) hash();
	else if (!strcmp(section, "cipher")) cipher();
	else if (!strcmp(section, "aead")) aead();
	else if (!strcmp(section, "rng")) rng();
	else if (!strcmp(section, "pipes")) pipes();
	else if (!strcmp(section, "aio")) aio();
	else if (!strcmp(section, "processes")) processes();
	else if (!strcmp(section, "polling")) polling();
	else if (!strcmp(section, "waiting")) waiting();
	else if (!strcmp(section, "threads")) threads(0);
	else if (!strcmp(section, "storm")) threads(1);
	else if (!strcmp(section, "many")) many();
	else if (!strcmp(section, "numbers")) numbers();
	else if (!strcmp(section, "edges")) edges();
	else if (!strcmp(section, "hidden")) hidden();
	else return 2;
	return 0;
}
