/* What a program needs of /dev/crypto: the interface of cryptodev-linux 1.14 on 64 bits. */
#ifndef DEVCRYPTO_H
#define DEVCRYPTO_H
#include <stdint.h>
#include <sys/ioctl.h>

struct session_op {
	uint32_t cipher, mac, keylen;
	void *key;
	uint32_t mackeylen;
	void *mackey;
	uint32_t ses;
};
#ifndef LINUX_ONLY /* OpenSSL takes the call of the BSDs for one of them */
struct session2_op {
	uint32_t cipher, mac, keylen;
	void *key;
	uint32_t mackeylen;
	void *mackey;
	uint32_t ses;
	int32_t crid, ivlen, maclen, pad[2];
};
#define CIOCGSESSION2 _IOWR('c', 106, struct session2_op)
#endif
struct crypt_op {
	uint32_t ses;
	uint16_t op, flags;
	uint32_t len;
	void *src, *dst, *mac, *iv;
};
struct crypt_auth_op {
	uint32_t ses;
	uint16_t op, flags;
	uint32_t len, auth_len;
	void *auth_src, *src, *dst, *tag;
	uint32_t tag_len;
	void *iv;
	uint32_t iv_len;
};
struct session_info_op {
	uint32_t ses;
	struct alg_info {
		char cra_name[64], cra_driver_name[64];
	} cipher_info, hash_info;
	uint16_t alignmask;
	uint32_t flags;
};
struct crparam {
	void *crp_p;
	uint32_t crp_nbits;
};
struct crypt_kop {
	uint32_t crk_op, crk_status;
	uint16_t crk_iparams, crk_oparams;
	uint32_t crk_pad1;
	struct crparam crk_param[8];
};
struct cphash_op {
	uint32_t dst_ses, src_ses;
};

enum {
	CRYPTO_DES_CBC = 1, CRYPTO_3DES_CBC = 2, CRYPTO_BLF_CBC = 3, CRYPTO_CAST_CBC = 4, CRYPTO_AES_CBC = 11,
	CRYPTO_ARC4 = 12, CRYPTO_MD5 = 13, CRYPTO_SHA1 = 14, CRYPTO_AES_CTR = 21, CRYPTO_AES_XTS = 22,
	CRYPTO_AES_ECB = 23, CRYPTO_AES_GCM = 50, CRYPTO_CAMELLIA_CBC = 101, CRYPTO_RIPEMD160 = 102,
	CRYPTO_SHA2_224 = 103, CRYPTO_SHA2_256 = 104, CRYPTO_SHA2_384 = 105, CRYPTO_SHA2_512 = 106,
	CRYPTO_ALGORITHM_ALL = 110,
};
enum { COP_ENCRYPT, COP_DECRYPT };
#define COP_FLAG_UPDATE 1
#define COP_FLAG_FINAL 2
#define COP_FLAG_WRITE_IV 4
#define COP_FLAG_NO_ZC 8
#define COP_FLAG_RESET 64
enum { SIOP_FLAG_KERNEL_DRIVER_ONLY = 1 };
#define HASH_MAX_LEN 64
#define CRYPTODEV_MAX_ALG_NAME 64

#define CRIOGET _IOWR('c', 101, uint32_t)
#define CIOCGSESSION _IOWR('c', 102, struct session_op)
#define CIOCFSESSION _IOW('c', 103, uint32_t)
#define CIOCCRYPT _IOWR('c', 104, struct crypt_op)
#define CIOCKEY _IOWR('c', 105, struct crypt_kop)
#define CIOCASYMFEAT _IOR('c', 106, uint32_t)
#define CIOCGSESSINFO _IOWR('c', 107, struct session_info_op)
#define CIOCAUTHCRYPT _IOWR('c', 109, struct crypt_auth_op)
#define CIOCASYNCCRYPT _IOW('c', 110, struct crypt_op)
#define CIOCASYNCFETCH _IOR('c', 111, struct crypt_op)
#define CIOCCPHASH _IOW('c', 112, struct cphash_op)
#endif
