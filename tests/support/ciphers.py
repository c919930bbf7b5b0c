"""A cipher that hides nothing, but whose output differs each time, as that of a real one does."""

import os


class XorCipher:
    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        key = os.urandom(8)
        return "xor", key + _mixed(plaintext, key)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "xor"
        return _mixed(ciphertext[8:], ciphertext[:8])


def _mixed(text: bytes, key: bytes) -> bytes:
    return bytes(one ^ key[place % len(key)] for place, one in enumerate(text))
