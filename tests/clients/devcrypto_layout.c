/* Prints where a compiler puts the fields, by the names of the definition, and the numbers of the ioctls. */
#include <stddef.h>
#include <stdio.h>
#include "devcrypto.h"

#define FIELD(type, field, name) printf(#type "." name " %zu\n", offsetof(struct type, field))
#define COMMAND(name) printf(#name " %lu\n", (unsigned long)name)

int main(void)
{
	FIELD(session_op, cipher, "cipher");
	FIELD(session_op, key, "key");
	FIELD(session_op, mackeylen, "mac_key_size");
	FIELD(session_op, mackey, "mac_key");
	FIELD(session_op, ses, "session");
	FIELD(session2_op, ses, "session");
	FIELD(session2_op, crid, "driver");
	FIELD(session2_op, ivlen, "iv_size");
	FIELD(session2_op, maclen, "mac_size");
	FIELD(crypt_op, op, "operation");
	FIELD(crypt_op, flags, "flags");
	FIELD(crypt_op, len, "size");
	FIELD(crypt_op, src, "source");
	FIELD(crypt_op, dst, "target");
	FIELD(crypt_op, mac, "mac");
	FIELD(crypt_op, iv, "iv");
	FIELD(crypt_auth_op, len, "size");
	FIELD(crypt_auth_op, auth_len, "auth_size");
	FIELD(crypt_auth_op, auth_src, "auth");
	FIELD(crypt_auth_op, src, "source");
	FIELD(crypt_auth_op, dst, "target");
	FIELD(crypt_auth_op, tag, "tag");
	FIELD(crypt_auth_op, tag_len, "tag_size");
	FIELD(crypt_auth_op, iv, "iv");
	FIELD(crypt_auth_op, iv_len, "iv_size");
	FIELD(session_info_op, cipher_info, "cipher_name");
	FIELD(session_info_op, hash_info.cra_driver_name, "mac_driver");
	FIELD(session_info_op, alignmask, "alignment_mask");
	FIELD(session_info_op, flags, "flags");
	FIELD(crypt_kop, crk_status, "status");
	FIELD(crypt_kop, crk_iparams, "inputs");
	FIELD(crypt_kop, crk_oparams, "outputs");
	FIELD(crparam, crp_p, "pointer");
	FIELD(crparam, crp_nbits, "bits");
	COMMAND(CRIOGET);
	COMMAND(CIOCGSESSION);
	COMMAND(CIOCGSESSION2);
	COMMAND(CIOCFSESSION);
	COMMAND(CIOCCRYPT);
	COMMAND(CIOCKEY);
	COMMAND(CIOCASYMFEAT);
	COMMAND(CIOCGSESSINFO);
	COMMAND(CIOCAUTHCRYPT);
	COMMAND(CIOCASYNCCRYPT);
	COMMAND(CIOCASYNCFETCH);
	COMMAND(CIOCCPHASH);
	return 0;
}
