"""Names, limits and costs of everything that provisioning writes (spec §6)."""

from __future__ import annotations

from typing import Final

ROSTER_FORMAT: Final = "secagg-lora/v1 roster"
SITE_FORMAT: Final = "secagg-lora/v1 site"
PUBLIC_KEY_FORMAT: Final = "secagg-lora/v1 public key"
PRIVATE_KEY_FORMAT: Final = "secagg-lora/v1 private key"

ROSTER_LIMIT: Final = 1 << 20  # bytes; 100 sites and 1,000 revoked keys take about 140 kB
KEY_FILE_LIMIT: Final = 1 << 14
CERTIFICATE_LIMIT: Final = 1 << 16
PASSPHRASE_LIMIT: Final = 1 << 10
SHARED_KEY_LIMIT: Final = 1 << 17
DEALT_LIMIT: Final = 1 << 23  # a shared key sealed to 99 sites

STATE_KEY_BYTES: Final = 32
NODE_SECRET_BYTES: Final = 48  # a P-384 scalar
SALT_BYTES: Final = 16
SCRYPT_N: Final = 1 << 17  # 128 MiB and a third of a second (OWASP's password-storage advice, 2023)
SCRYPT_N_MOST: Final = 1 << 20  # a file that asks for more is refused, not computed
SCRYPT_R: Final = 8
SCRYPT_P: Final = 1
LEAST_PASSPHRASE: Final = 12  # characters

LAST_DATE_S: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second with a four-digit year
DAY_S: Final = 86_400
ROSTER_DAYS: Final = 365
MOST_DAYS: Final = 3_650
CERTIFICATE_DAYS: Final = 825
CLOCK_SKEW_DAYS: Final = 2  # certificates start in the past, so that clocks a day apart agree
MOST_HOSTS: Final = 100
CA_FILE: Final = "ca.pem"  # in a site's home: the CA that the server's certificate comes from
USED_KEYS_FILE: Final = "shared-keys.log"  # in a site's home: which session used which shared key
PROVISIONED_SHARED_KEY: Final = "shared.keys"  # of a consortium that one person provisioned
