"""HubSpot's own Python client, with tokens from a local Grantkeeper: it never sees a refresh token or the client secret,
and goes on when a token expires or is refused.

Usage: hubspot_client.py PORTAL [SOCKET [HUBSPOT_URL [TIMES]]]
"""

import sys
import time

from hubspot import Client

from grantkeeper import SOCKET, Keeper


class Portal:
    """One customer's HubSpot."""

    def __init__(self, keeper, portal, url):
        self.keeper, self.portal = keeper, portal
        self.client = Client.create(host=url, base_url=url)

    def get(self, path):
        # Asked each time: the service answers from memory, with a token that lives long enough.
        token = self.keeper.token(self.portal)
        answer = self._get(path, token)
        if answer.status_code == 401:
            answer = self._get(path, self.keeper.refresh(self.portal, token))
        answer.raise_for_status()
        return answer.json()

    def _get(self, path, token):
        self.client.access_token = token.access_token
        return self.client.api_request({"path": path})


def main():
    portal, path, url, times = (sys.argv[1:] + ["", "", "", ""])[:4]
    hubspot = Portal(Keeper(path or SOCKET), int(portal), url or "https://api.hubapi.com")
    for _ in range(int(times or 1)):
        print(hubspot.get("/account-info/v3/details")["portalId"], flush=True)
        if times:
            time.sleep(0.5)


main()
