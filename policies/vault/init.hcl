# What `grantkeeper init` and `grantkeeper check` need: they read and change nothing. Put your mount in
# the place of `secret` and your prefix in the place of `grantkeeper/acme-sync`.
#
# An init container that meets a provider which replaces refresh tokens must be able to store the new
# one: give it the agent's policy then.

path "secret/data/grantkeeper/acme-sync/client" {
  capabilities = ["read"]
}

path "secret/data/grantkeeper/acme-sync/portals/*" {
  capabilities = ["read"]
}

path "secret/metadata/grantkeeper/acme-sync/portals/" {
  capabilities = ["list"]
}
