/* Digests "abc" by a socket that it makes with syscall(2), and looks what syscall(2) does with other calls. */

#include <errno.h>
#include <linux/if_alg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_alg name = {.salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha256"};
	unsigned char digest[32];
	/* six arguments, an errno, and a family that is not AF_ALG */
	char *page = (char *)syscall(SYS_mmap, NULL, 4096L, (long)PROT_READ | PROT_WRITE,
				     (long)MAP_PRIVATE | MAP_ANONYMOUS, -1L, 0L);
	if (page == MAP_FAILED || syscall(SYS_munmap, page, 4096L))
		return 2;
	if (syscall(SYS_close, -1L) != -1 || errno != EBADF)
		return 3;
	int other = (int)syscall(SYS_socket, (long)AF_UNIX, (long)SOCK_STREAM, 0L);
	if (other < 0)
		return 4;
	close(other);

	int bound = (int)syscall(SYS_socket, (long)AF_ALG, (long)SOCK_SEQPACKET, 0L);
	if (bound < 0) {
		perror("socket");
		return 1;
	}
	int operation = bind(bound, (struct sockaddr *)&name, sizeof name) ? -1 : accept(bound, NULL, NULL);
	if (operation < 0 || send(operation, "abc", 3, 0) != 3 || recv(operation, digest, sizeof digest, 0) != 32) {
		perror("digest");
		return 1;
	}
	for (int i = 0; i < 32; i++)
		printf("%02x", digest[i]);
	printf("\n");
	return 0;
}
