"""Access tokens for HubSpot from a local Grantkeeper, with nothing but the standard library.

    keeper = Keeper()
    token = keeper.token(4711)            # ask before each piece of work: a token in hand costs microseconds
    keeper.refresh(4711, token)           # HubSpot answered 401: another one, new if need be
"""

import base64
import http.client
import json
import socket

SOCKET = "/run/grantkeeper/grantkeeper.sock"


class Refused(Exception):
    """The service says no. `code` is the stable word; `retry_after` in seconds, if asking again can help."""

    def __init__(self, problem):
        super().__init__(problem.get("detail", "refused"))
        self.code = problem.get("code", "unknown")
        self.status = problem.get("status", 0)
        self.retry_after = problem.get("retry_after")


class Token:
    """One access token; `expires_in` seconds were left when it was handed out."""

    def __init__(self, body, etag):
        self.access_token = body["access_token"]
        self.expires_at = body["expires_at"]
        self.expires_in = body["expires_in"]
        self.etag = etag

    def __repr__(self):
        return f"Token({self.etag}, expires_at={self.expires_at})"


class Keeper:
    def __init__(self, path=SOCKET, timeout=30):
        self.path, self.timeout = path, timeout

    def token(self, portal, min_ttl=None):
        """A token of this portal with at least `min_ttl` seconds of life."""
        query = "" if min_ttl is None else f"?min_ttl={int(min_ttl)}"
        return self._token("GET", f"/v1/portals/{int(portal)}/token{query}")

    def refresh(self, portal, rejected):
        """Another token than `rejected`, which HubSpot answered 401 to."""
        return self._token("POST", f"/v1/portals/{int(portal)}/refresh", {"rejected": rejected.etag})

    def enroll(self, code, redirect_uri, code_verifier=None):
        """Takes in the grant behind a code from HubSpot's consent page; gives the portal's id."""
        body = {"code": code, "redirect_uri": redirect_uri, "code_verifier": code_verifier}
        return self._ask("POST", "/v1/portals", body)[0]["portal_id"]

    def is_from_hubspot(self, method, uri, headers, body):
        """Whether a webhook, as it came in, is HubSpot's."""
        body = {
            "method": method,
            "uri": uri,
            "headers": dict(headers),
            "body": base64.b64encode(body).decode(),
        }
        return self._ask("POST", "/v1/webhooks/verify", body)[0]["valid"]

    def _token(self, method, path, body=None):
        return Token(*self._ask(method, path, body))

    def _ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("grantkeeper", timeout=self.timeout)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(self.timeout)
            connection.sock.connect(self.path)
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            told = json.loads(answer.read())
            if answer.status >= 300:
                raise Refused(told)
            return told, answer.headers.get("ETag")
        finally:
            connection.close()
