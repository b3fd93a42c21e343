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
struct session2_op {
	uint32_t cipher, mac, keylen;
	void *key;
	uint32_t mackeylen;
	void *mackey;
	uint32_t ses;
	int32_t crid, ivlen, maclen, pad[2];
};
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
	char cipher_name[64], cipher_driver[64], mac_name[64], mac_driver[64];
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

#define CRIOGET _IOWR('c', 101, uint32_t)
#define CIOCGSESSION _IOWR('c', 102, struct session_op)
#define CIOCGSESSION2 _IOWR('c', 106, struct session2_op)
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
