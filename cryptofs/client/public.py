"""Public key operations of a context: types akcipher, sig and kpp."""

import errno

from ..records import Attr, Buffer, Operation, Record, Value, octets
from .errors import RequestError
from .wire import Requester


class PublicKeyCalls(Requester):
    """The operations of a public key type, besides encrypt and decrypt. Errors: RequestError."""

    def sign(self, data: Buffer, signature_context: Buffer = b"") -> bytes:
        """The signature of a digest, or of a message if the algorithm hashes it itself.

        signature_context: for ML-DSA, at most 255 bytes that verify must get, too.
        """
        return bytes(self._operate(Operation.SIGN, _for_context(signature_context), data).payload)

    def verify(self, signature: Buffer, data: Buffer, signature_context: Buffer = b"") -> bool:
        """Whether the signature matches a digest or message under this context's key."""
        attributes = _for_context(signature_context) | {Attr.SIGNATURE: octets(signature, "signature")}
        try:
            self._operate(Operation.VERIFY, attributes, data)
        except RequestError as error:
            # EBADMSG: malformed, so no message has this signature under this key.
            if error.errno in (errno.EKEYREJECTED, errno.EBADMSG):
                return False
            raise
        return True

    def generate_key(self, bits: int | None = None, key_format: str | None = None) -> bytes:
        """Generate a key pair and return its public half. No call can read the private half. bits: for rsa. key_format:
        `raw` or `der`.

        Errors: EBUSY if the context has a key.
        """
        attributes: dict[int, Value] = {} if bits is None else {Attr.KEY_BITS: bits}
        return self._key(Operation.GENERATE_KEY, attributes, key_format)

    def public_key(self, key_format: str | None = None) -> bytes:
        """The public half of the context's key: `raw`, as the kernel has it, or `der`."""
        return self._key(Operation.PUBLIC_KEY, {}, key_format)

    def agree(self, peer_key: Buffer) -> bytes:
        """The secret shared with a peer, from its public key."""
        return bytes(self._operate(Operation.AGREE, {Attr.PEER_KEY: octets(peer_key, "peer_key")}).payload)

    def encapsulate(self, peer_key: Buffer | None = None) -> tuple[bytes, bytes]:
        """A new secret, and the ciphertext from which the owner of the private key gets the same secret."""
        reply = self._operate(
            Operation.ENCAPSULATE, {} if peer_key is None else {Attr.PEER_KEY: octets(peer_key, "peer_key")}
        )
        ciphertext = reply.attributes[Attr.CIPHERTEXT]
        assert not isinstance(ciphertext, int | str)
        return bytes(reply.payload), bytes(ciphertext)

    def decapsulate(self, ciphertext: Buffer) -> bytes:
        """The secret of a ciphertext. A ciphertext for another key gives another secret, and no error."""
        return bytes(self._operate(Operation.DECAPSULATE, {Attr.CIPHERTEXT: octets(ciphertext, "ciphertext")}).payload)

    def _key(self, operation: Operation, attributes: dict[int, Value], key_format: str | None) -> bytes:
        if key_format is not None:
            attributes[Attr.KEY_FORMAT] = key_format
        return bytes(self._operate(operation, attributes).payload)

    def _operate(self, operation: Operation, attributes: dict[int, Value], data: Buffer = b"") -> Record:
        return self.request(Record(operation, 0, self.new_id(), 0, attributes, octets(data)))


def _for_context(signature_context: Buffer) -> dict[int, Value]:
    given = octets(signature_context, "signature_context")
    return {Attr.SIGNATURE_CONTEXT: given} if len(given) else {}
