/* 300 digests, each of 100 parts, while a signal comes each 0.15 ms. A call that is made twice, or not at all, makes a
 * digest a wrong one. Prints how many are wrong. */
#include <errno.h>
#include <linux/if_alg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { DIGESTS = 300, PARTS = 100 };

static volatile sig_atomic_t signals;

static void count(int number)
{
	(void)number;
	signals++;
}

static void must(int right, const char *what)
{
	if (!right) {
		perror(what);
		exit(2);
	}
}

static void digest(int operation, unsigned char *result)
{
	for (int part = 0; part < PARTS; part++)
		must(send(operation, "x", 1, part + 1 < PARTS ? MSG_MORE : 0) == 1, "send");
	must(read(operation, result, 32) == 32, "read");
}

int main(void)
{
	struct sockaddr_alg name = { .salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha256" };
	struct sigaction action = { .sa_handler = count, .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 150 }, { 0, 150 } };
	unsigned char first[32], next[32];
	int socket_of_name = socket(AF_ALG, SOCK_SEQPACKET, 0), operation, wrong = 0;

	must(bind(socket_of_name, (struct sockaddr *)&name, sizeof(name)) == 0, "bind");
	operation = accept(socket_of_name, NULL, NULL);
	must(operation >= 0, "accept");
	digest(operation, first);
	must(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0, "signals");
	for (int round = 1; round < DIGESTS; round++) {
		digest(operation, next);
		wrong += memcmp(first, next, sizeof(first)) != 0;
	}
	for (int byte = 0; byte < 32; byte++)
		printf("%02x", first[byte]);
	printf(" %d wrong, %s\n", wrong, signals > 100 ? "under signals" : "without signals");
	return 0;
}
