# What `grantkeeper run` needs where apps may enrol and remove portals over its socket: what `agent` may, and taking
# the record of a portal away. Put your mount in the place of `secret` and your prefix in the place of
# `grantkeeper/acme-sync`.

path "secret/data/grantkeeper/acme-sync/client" {
  capabilities = ["read"]
}

path "secret/data/grantkeeper/acme-sync/portals/*" {
  capabilities = ["create", "read", "update"]
}

path "secret/metadata/grantkeeper/acme-sync/portals/" {
  capabilities = ["list"]
}

# What has changed is found by its metadata, all at once on OpenBao, one by one on Vault. Without these two every
# record is read again at each validation.
path "secret/detailed-metadata/grantkeeper/acme-sync/portals/" {
  capabilities = ["list"]
}

path "secret/metadata/grantkeeper/acme-sync/portals/*" {
  capabilities = ["delete", "read"]
}
