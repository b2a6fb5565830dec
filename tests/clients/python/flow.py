"""HubSpot's stable Python client against the stand-in: every OAuth call it has, good and bad.

Usage: flow.py BASE_URL; client pair, code and redirect URI as JSON on standard input.
"""

import json
import sys

from hubspot import Client
from hubspot.oauth import ApiException


def main():
    url = sys.argv[1]
    given = json.load(sys.stdin)
    pair = {"client_id": given["client_id"], "client_secret": given["client_secret"]}
    # `host` is for the generated parts, `base_url` for `api_request`.
    client = Client.create(host=url, base_url=url)
    tokens = client.oauth.tokens_api

    first = tokens.create(
        grant_type="authorization_code",
        code=given["code"],
        redirect_uri=given["redirect_uri"],
        **pair,
    )
    assert first.token_type == "bearer", first.token_type
    assert first.expires_in == 1800, first.expires_in

    second = tokens.create(
        grant_type="refresh_token", refresh_token=first.refresh_token, **pair
    )
    assert second.access_token != first.access_token
    assert second.refresh_token == first.refresh_token

    about = client.oauth.access_tokens_api.get(second.access_token)
    assert about.hub_id == given["portal"], about.hub_id
    assert 0 < about.expires_in <= 1800, about.expires_in
    assert "oauth" in about.scopes, about.scopes
    assert client.oauth.refresh_tokens_api.get(first.refresh_token).hub_id == given["portal"]

    client.access_token = second.access_token
    answer = client.api_request({"path": "/account-info/v3/details"})
    assert answer.status_code == 200, answer.status_code
    assert answer.json()["portalId"] == given["portal"], answer.json()

    refused(
        "BAD_CLIENT_SECRET",
        tokens,
        grant_type="refresh_token",
        refresh_token=first.refresh_token,
        client_id=given["client_id"],
        client_secret="wrong",
    )
    client.oauth.refresh_tokens_api.archive(first.refresh_token)
    refused(
        "BAD_REFRESH_TOKEN",
        tokens,
        grant_type="refresh_token",
        refresh_token=first.refresh_token,
        **pair,
    )
    print("ok")


def refused(status, tokens, **parameters):
    try:
        tokens.create(**parameters)
    except ApiException as error:
        assert error.status == 400, error.status
        assert json.loads(error.body)["status"] == status, status
        return
    raise AssertionError(f"{status} was expected, and it was granted")


main()
