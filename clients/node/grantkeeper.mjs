// Access tokens for HubSpot from a local Grantkeeper, with nothing but Node itself.
//
//   const keeper = new Keeper();
//   const token = await keeper.token(4711);    // ask before each piece of work: a token in hand costs microseconds
//   await keeper.refresh(4711, token);         // HubSpot answered 401: another one, new if need be

import { request } from 'node:http';

export const SOCKET = '/run/grantkeeper/grantkeeper.sock';

/** The service says no. `code` is the stable word; `retryAfter` in seconds, if asking again can help. */
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail ?? 'refused');
    this.code = problem.code ?? 'unknown';
    this.status = problem.status ?? 0;
    this.retryAfter = problem.retry_after;
  }
}

export class Keeper {
  constructor(path = SOCKET, timeout = 30_000) {
    this.path = path;
    this.timeout = timeout;
  }

  /** A token of this portal with at least `minTtl` seconds of life. */
  token(portal, minTtl) {
    const query = minTtl === undefined ? '' : `?min_ttl=${Math.trunc(minTtl)}`;
    return this.#token('GET', `/v1/portals/${portal}/token${query}`);
  }

  /** Another token than `rejected`, which HubSpot answered 401 to. */
  refresh(portal, rejected) {
    return this.#token('POST', `/v1/portals/${portal}/refresh`, { rejected: rejected.etag });
  }

  /** Takes in the grant behind a code from HubSpot's consent page; gives the portal's id. */
  async enroll(code, redirectUri, codeVerifier) {
    const body = { code, redirect_uri: redirectUri, code_verifier: codeVerifier };
    return (await this.#ask('POST', '/v1/portals', body)).body.portal_id;
  }

  /** Whether a webhook, as it came in, is HubSpot's; `body` is a Buffer. */
  async isFromHubSpot(method, uri, headers, body) {
    const asked = { method, uri, headers, body: body.toString('base64') };
    return (await this.#ask('POST', '/v1/webhooks/verify', asked)).body.valid;
  }

  async #token(method, path, asked) {
    const { body, etag } = await this.#ask(method, path, asked);
    return {
      accessToken: body.access_token,
      expiresAt: body.expires_at,
      expiresIn: body.expires_in,
      etag,
    };
  }

  #ask(method, path, body) {
    return new Promise((resolve, reject) => {
      const headers = { host: 'grantkeeper', 'content-type': 'application/json' };
      const asked = request(
        { socketPath: this.path, method, path, headers, timeout: this.timeout, agent: false },
        (answer) => {
          const parts = [];
          answer.on('data', (part) => parts.push(part));
          answer.on('error', reject);
          answer.on('end', () => {
            try {
              const told = JSON.parse(Buffer.concat(parts).toString());
              if (answer.statusCode >= 300) return reject(new Refused(told));
              resolve({ body: told, etag: answer.headers.etag });
            } catch (error) {
              reject(error);
            }
          });
        },
      );
      asked.on('timeout', () => asked.destroy(new Error('the service does not answer')));
      asked.on('error', reject);
      asked.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }
}
