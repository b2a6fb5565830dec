#!/bin/sh
# Access tokens for HubSpot from a local Grantkeeper, for shell scripts: needs curl and nothing else.
#
#   . grantkeeper.sh
#   hubspot_get 4711 /crm/v3/objects/contacts        # asks again with another token if HubSpot answers 401
#
# A token never stands in an argument, where `ps` would show it: curl reads its header from a pipe.

: "${GRANTKEEPER_SOCKET:=/run/grantkeeper/grantkeeper.sock}"
: "${HUBSPOT_URL:=https://api.hubapi.com}"

# The value of a text member of one flat JSON object.
_gk_member() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# One access token of portal $1 on standard output; with the service's own words on standard error if there is none.
grantkeeper_token() {
  _gk_answer=$(curl -sS --unix-socket "$GRANTKEEPER_SOCKET" "http://grantkeeper/v1/portals/$1/token") || return 69
  _gk_give "$_gk_answer"
}

# Another token of portal $1 than $2, which HubSpot answered 401 to.
grantkeeper_refresh() {
  _gk_etag=$(printf %s "$2" | sha256sum | cut -c1-12)
  _gk_answer=$(curl -sS --unix-socket "$GRANTKEEPER_SOCKET" -X POST -H 'Content-Type: application/json' \
    -d "{\"rejected\":\"$_gk_etag\"}" "http://grantkeeper/v1/portals/$1/refresh") || return 69
  _gk_give "$_gk_answer"
}

_gk_give() {
  _gk_token=$(printf %s "$1" | _gk_member access_token)
  if [ -n "$_gk_token" ]; then
    printf '%s\n' "$_gk_token"
  else
    printf 'grantkeeper: %s\n' "$(printf %s "$1" | _gk_member detail)" >&2
    return 1
  fi
}

# GET $2 of HubSpot's API for portal $1: the body on standard output.
hubspot_get() {
  _gk_used=$(grantkeeper_token "$1") || return
  _gk_file=$(mktemp) || return
  _gk_status=$(_gk_get "$_gk_used" "$2")
  if [ "$_gk_status" = 401 ]; then
    _gk_used=$(grantkeeper_refresh "$1" "$_gk_used") || { rm -f "$_gk_file"; return 1; }
    _gk_status=$(_gk_get "$_gk_used" "$2")
  fi
  cat "$_gk_file" && rm -f "$_gk_file"
  case "$_gk_status" in 2*) return 0 ;; *) printf 'HubSpot: HTTP %s\n' "$_gk_status" >&2; return 1 ;; esac
}

_gk_get() {
  printf 'header = "Authorization: Bearer %s"\n' "$1" |
    curl -sS -K - -o "$_gk_file" -w '%{http_code}' "$HUBSPOT_URL$2"
}
