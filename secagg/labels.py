"""Every domain-separation label of the protocol, and nothing else (spec §8)."""

from typing import Final

PROTOCOL: Final = b"secagg-lora/v1"


def _label(purpose: str) -> bytes:
    return PROTOCOL + b" " + purpose.encode("ascii") + b"\x00"


# digests
LAYOUT: Final = _label("layout")
ADAPTER: Final = _label("adapter")
ROSTER: Final = _label("roster")
MANIFEST: Final = _label("manifest")
HEADER: Final = _label("round header")
GRAPH: Final = _label("graph")
SEED_COMMITMENT: Final = _label("self-mask seed commitment")
MASKED_WORDS: Final = _label("masked words")
BOXES: Final = _label("share boxes")
KEY_ROSTER: Final = _label("key roster")  # h1
SHARE_SET: Final = _label("share set")  # h2
SURVIVOR_SET: Final = _label("survivor set")  # h3
SUM_WORDS: Final = _label("sum words")
TRANSCRIPT: Final = _label("transcript")
FINGERPRINT: Final = _label("fingerprint")
BASE_MODEL: Final = _label("base model")
TOKENIZER: Final = _label("tokenizer")
LORA_CONFIG: Final = _label("lora config")

# signatures; the message's own tag follows inside the signed struct
SIGN_SITE_PUBLIC: Final = _label("sig site public")
SIGN_ROSTER: Final = _label("sig roster")
SIGN_HELLO: Final = _label("sig hello")
SIGN_MODEL_CARD: Final = _label("sig model card")
SIGN_CONSENT: Final = _label("sig consent")
SIGN_READY: Final = _label("sig ready")
SIGN_OPENING_WANTED: Final = _label("sig opening wanted")
SIGN_OPENING_FOR: Final = _label("sig opening for")
SIGN_ROUND_OPEN: Final = _label("sig round open")
SIGN_KEY_ADVERT: Final = _label("sig key advert")
SIGN_SEALED_SHARES: Final = _label("sig sealed shares")
SIGN_MASKED_VECTOR: Final = _label("sig masked vector")
SIGN_SURVIVORS: Final = _label("sig survivors")
SIGN_UNMASK_SHARES: Final = _label("sig unmask shares")
SIGN_PROJECTIONS: Final = _label("sig projections")

# key derivation (HKDF info) and streams
SHARE_KEY: Final = _label("share key")
PAIR_MASK: Final = _label("pair mask")
SELF_MASK: Final = _label("self mask")
SHARE_AAD: Final = _label("share aad")
ROTATION: Final = _label("rotation signs")
CHALLENGE: Final = _label("challenge")
INITIAL_VALUES: Final = _label("initial values")
KEY_AT_REST: Final = _label("key at rest")  # a passphrase-sealed key file
KEY_CHECK: Final = _label("key check")

# ckks
CKKS_UPDATE: Final = _label("ckks update")
CKKS_SEED: Final = _label("ckks seed")
CKKS_DITHER: Final = _label("ckks dither")
CKKS_KEY: Final = _label("ckks key")
CKKS_ERROR: Final = _label("ckks error")
CKKS_PUBLIC: Final = _label("ckks public element")
BLIND_COMMITMENT: Final = _label("blind seed commitment")
BLIND_ROSTER: Final = _label("blind roster")
BLIND_KEY: Final = _label("blind key")
BLIND_AAD: Final = _label("blind aad")
BLIND_PAD: Final = _label("blind pad")
SIGN_BLIND_ADVERT: Final = _label("sig blind advert")

# ckks-shared
SHARED_KEY_NAME: Final = _label("shared key")
SHARED_KEY_BOX: Final = _label("shared key box")
CIPHERTEXTS: Final = _label("ciphertext words")
SIGN_SHARED_KEYS: Final = _label("sig shared keys")
SIGN_CONTRIBUTION: Final = _label("sig contribution")

VECTOR_UPDATE: Final = _label("vector update")  # names which vector a mask is for
VECTOR_TAIL: Final = _label("vector tail")

ALL: Final = {name: value for name, value in list(globals().items()) if isinstance(value, bytes) and name.isupper()}
