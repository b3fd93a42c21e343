/* A library for LD_PRELOAD: socket(AF_ALG) becomes a socket of AF_UNIX with the protocol ALIAS_PROTOCOL.
 *
 * The seccomp filter of a container may refuse AF_ALG with an errno, which outranks the supervisor's notification. Such
 * filters look at the family alone, and every container has AF_UNIX. That family has no such protocol: only the
 * supervisor of `cryptofs run` serves it. What does not come by here, such as the calls of a static program, gets the
 * errno of the container's filter.
 *
 * It needs no library: it works with every version of glibc, and with musl.
 */

#include <linux/errno.h>
#include <stdint.h>
#include <sys/syscall.h>

#define AF_ALG 38
/* as in runner/shim.py */
#define ALIAS 1
#define ALIAS_PROTOCOL 0x63666C00
#define EXPORTED __attribute__((visibility("default")))

/* Both C libraries have the first one. Where the second one is missing, nobody else's `socket` is called. */
extern int *__errno_location(void);
extern void *dlsym(void *, const char *) __attribute__((weak));
#define NEXT ((void *)-1)

static long kernel(long number, long a, long b, long c, long d, long e, long f)
{
	long value;
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(value)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	value = x0;
#else
#error "the shim knows x86_64 and aarch64"
#endif
	if ((unsigned long)value >= -4095UL) {
		*__errno_location() = (int)-value;
		return -1;
	}
	return value;
}

/* What the program would call without this library: the C library's, or that of another library before it. */
static int (*next_socket)(int, int, int);

__attribute__((constructor)) static void find_next(void)
{
	if (dlsym)
		next_socket = (int (*)(int, int, int))(uintptr_t)dlsym(NEXT, "socket");
}

static long make_alias(long type, int protocol)
{
	long value = kernel(SYS_socket, ALIAS, type, ALIAS_PROTOCOL + !!protocol, 0, 0, 0);
	/* The kernel's word: there is no supervisor, which has only the protocol 0. */
	if (value < 0 && !protocol && *__errno_location() == EPROTONOSUPPORT)
		*__errno_location() = EAFNOSUPPORT;
	return value;
}

EXPORTED int socket(int family, int type, int protocol)
{
	if (family == AF_ALG)
		return (int)make_alias(type, protocol);
	if (next_socket)
		return next_socket(family, type, protocol);
	return (int)kernel(SYS_socket, family, type, protocol, 0, 0, 0);
}

/* Six arguments whatever the call has, as the C libraries do it: the kernel ignores the rest. */
EXPORTED long syscall(long number, long a, long b, long c, long d, long e, long f)
{
	if (number == SYS_socket && (int)a == AF_ALG)
		return make_alias(b, (int)c);
	return kernel(number, a, b, c, d, e, f);
}
