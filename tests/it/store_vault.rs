//! What only Vault and OpenBao can do to us: tokens that die, policies that deny, seals and mounts.
