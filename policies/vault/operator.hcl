# What a person needs: `app set`, `rotate client-secret`, `enroll`, `import`, `reshard`, and taking a portal's record away.
# Put your mount in the place of `secret` and your prefix in the place of `grantkeeper/acme-sync`.

path "secret/data/grantkeeper/acme-sync/client" {
  capabilities = ["create", "read", "update"]
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
