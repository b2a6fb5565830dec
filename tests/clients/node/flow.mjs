// HubSpot's stable Node client against the stand-in: every OAuth call it has, good and bad.
//
// Usage: node flow.mjs BASE_URL; client pair, code and redirect URI as JSON on standard input.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

// The packages stand beside the working directory, not beside this file.
const { Client } = createRequire(join(process.cwd(), 'flow.mjs'))('@hubspot/api-client');

const basePath = process.argv[2];
const given = JSON.parse(await text(process.stdin));
const client = new Client({ basePath });
const { tokensApi, accessTokensApi, refreshTokensApi } = client.oauth;
const refresh = (token, secret = given.client_secret) =>
  tokensApi.create('refresh_token', undefined, undefined, given.client_id, secret, token);
const refusedWith = (status) => (error) => {
  assert.equal(error.code, 400);
  const body = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
  assert.equal(body.status, status);
  return true;
};

const first = await tokensApi.create(
  'authorization_code',
  given.code,
  given.redirect_uri,
  given.client_id,
  given.client_secret,
);
assert.equal(first.tokenType, 'bearer');
assert.equal(first.expiresIn, 1800);

const second = await refresh(first.refreshToken);
assert.notEqual(second.accessToken, first.accessToken);
assert.equal(second.refreshToken, first.refreshToken);

const about = await accessTokensApi.get(second.accessToken);
assert.equal(about.hubId, given.portal);
assert.ok(about.expiresIn > 0 && about.expiresIn <= 1800);
assert.ok(about.scopes.includes('oauth'));
assert.equal((await refreshTokensApi.get(first.refreshToken)).hubId, given.portal);

client.setAccessToken(second.accessToken);
const answer = await client.apiRequest({ path: '/account-info/v3/details' });
assert.equal(answer.status, 200);
assert.equal((await answer.json()).portalId, given.portal);

await assert.rejects(refresh(first.refreshToken, 'wrong'), refusedWith('BAD_CLIENT_SECRET'));
await refreshTokensApi.archive(first.refreshToken);
await assert.rejects(refresh(first.refreshToken), refusedWith('BAD_REFRESH_TOKEN'));
console.log('ok');
