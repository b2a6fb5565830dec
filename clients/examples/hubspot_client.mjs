// HubSpot's own Node client, with tokens from a local Grantkeeper: it never sees a refresh token or the client secret,
// and goes on when a token expires or is refused.
//
// Usage: node hubspot_client.mjs PORTAL [SOCKET [HUBSPOT_URL [TIMES]]]

import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import { Keeper, SOCKET } from '../node/grantkeeper.mjs';

// The packages stand beside the working directory.
const { Client } = createRequire(join(process.cwd(), 'x.mjs'))('@hubspot/api-client');

const [portal, path = SOCKET, url = 'https://api.hubapi.com', times] = process.argv.slice(2);
const keeper = new Keeper(path);
const client = new Client({ basePath: url });

async function get(path) {
  const request = async (token) => {
    client.setAccessToken(token.accessToken);
    return client.apiRequest({ path });
  };
  // Asked each time: the service answers from memory, with a token that lives long enough.
  const token = await keeper.token(portal);
  let answer = await request(token);
  if (answer.status === 401) answer = await request(await keeper.refresh(portal, token));
  if (!answer.ok) throw new Error(`HubSpot: HTTP ${answer.status}`);
  return answer.json();
}

for (let time = 0; time < Number(times ?? 1); time += 1) {
  console.log((await get('/account-info/v3/details')).portalId);
  if (times) await setTimeout(500);
}
