"""gcm in a token; every message goes whole."""

from typing import Any

import pkcs11
from pkcs11 import GCMParams, Mechanism

from ...errors import CryptofsError, EngineFault
from ...records import Buffer
from ..kinds import AeadTransform
from .token import fault
from .transform import TokenTransform

# the standard wants EncryptedDataInvalid for a wrong tag; SoftHSM answers GeneralError
_WRONG_TAG = (pkcs11.EncryptedDataInvalid, pkcs11.SignatureInvalid)
_PERHAPS_WRONG_TAG = (pkcs11.GeneralError, pkcs11.FunctionFailed, pkcs11.DataInvalid)


class TokenGcm(TokenTransform, AeadTransform):
    """GCM of a token."""

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        try:
            sealed = self._key.encrypt(bytes(view[assoclen:]), Mechanism.AES_GCM, self._parameters(iv, view, assoclen))
        except pkcs11.PKCS11Error as error:
            raise fault(error, self._subject(len(view), assoclen)) from None
        return self._give(sealed, len(view) - assoclen + self.authsize, out)

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        try:
            text = self._key.decrypt(bytes(view[assoclen:]), Mechanism.AES_GCM, self._parameters(iv, view, assoclen))
        except pkcs11.PKCS11Error as error:
            raise self._refused(error, len(view), assoclen) from None
        return self._give(text, len(view) - assoclen - self.authsize, out)

    def _parameters(self, iv: Buffer, view: memoryview, assoclen: int) -> Any:
        return GCMParams(bytes(iv), bytes(view[:assoclen]) or None, self.authsize * 8)

    def _give(self, result: bytes, expected: int, out: memoryview) -> int:
        if len(result) != expected:
            raise EngineFault(f"{self.description.name}: {len(result)} bytes came out of the token, not {expected}")
        out[:expected] = result
        return expected

    def _refused(self, error: pkcs11.PKCS11Error, size: int, assoclen: int) -> CryptofsError:
        # where the answer does not tell, a token that still knows the key has refused the message
        if isinstance(error, _WRONG_TAG) or (isinstance(error, _PERHAPS_WRONG_TAG) and self._key.answers()):
            return self.bad_tag()
        return fault(error, self._subject(size, assoclen))

    def _subject(self, size: int, assoclen: int) -> str:
        return f"message of {size} bytes with assoclen {assoclen} and tag {self.authsize}"
