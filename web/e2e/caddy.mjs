// Caddy with the project's own Caddyfile in front of a gateway, with TLS by an authority of its own.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import https from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const CADDY = process.env.CADDY ?? '/usr/bin/caddy';
const CADDYFILE = fileURLToPath(new URL('../../Caddyfile', import.meta.url));
const START_MS = 20_000;

/** Whether Caddy stands in front of every gateway, and tests run by HTTPS: `E2E_CADDY=1`. */
export const wanted = () => process.env.E2E_CADDY === '1';

/** By the gateway's port: a successor at the same port is found behind the same Caddy. */
const running = new Map();

/**
 * Caddy in front of the gateway on `port`, or `null` if none is wanted. It lives as long as this process, as a
 * machine's does: gateways come and go behind it.
 */
export async function front(port) {
  if (!wanted()) return null;
  if (!running.has(port)) running.set(port, await startCaddy(port));
  return running.get(port);
}

async function startCaddy(port) {
  const [httpsPort, httpPort, adminPort] = await freePorts(3);
  const home = mkdtempSync(join(tmpdir(), 'belljar-e2e-caddy-'));
  const url = `https://localhost:${httpsPort}`;
  const config = ['--config', CADDYFILE, '--adapter', 'caddyfile'];
  const env = {
    PATH: process.env.PATH,
    HOME: home,
    XDG_DATA_HOME: home,
    XDG_CONFIG_HOME: home,
    BELLJAR_CADDY_ADMIN: `127.0.0.1:${adminPort}`,
    BELLJAR_SITE: `localhost:${httpsPort}`,
    BELLJAR_UPSTREAM: `127.0.0.1:${port}`,
    BELLJAR_HTTP_PORT: `${httpPort}`,
  };
  const child = spawn(CADDY, ['run', ...config], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  // The access log goes to standard output, what Caddy says of itself to standard error.
  let access = '';
  let log = '';
  child.stdout.on('data', (chunk) => {
    access += chunk;
  });
  child.stderr.on('data', (chunk) => {
    log = (log + chunk).slice(-20_000);
  });
  const failed = new Promise((_, reject) => {
    child.once('error', (error) => reject(new Error(`${CADDY}: ${error.message}`)));
    child.once('exit', (code, signal) => reject(new Error(`Caddy ended (${code ?? signal}):\n${log}`)));
  });
  failed.catch(() => {});
  for (const held of [child, child.stdout, child.stderr]) held.unref();
  process.once('exit', () => {
    child.kill('SIGKILL');
    rmSync(home, { recursive: true, force: true });
  });

  const authority = join(home, 'caddy/pki/authorities/local/root.crt');
  /** A request by somebody who believes Caddy's authority and nobody else's. `options` are those of node:https. */
  const request = (path, options) =>
    https.request({
      host: 'localhost',
      port: httpsPort,
      // As it stands, not as a browser would tidy it up.
      path,
      ca: readFileSync(authority),
      agent: false,
      ...options,
    });
  /** The same, with its whole answer. */
  const ask = async (path, { body, ...options } = {}) => {
    const asked = request(path, options).end(body);
    const [response] = await once(asked, 'response');
    response.setEncoding('utf8');
    const text = (await response.toArray()).join('');
    return { status: response.statusCode, headers: response.headers, text };
  };
  /** Reads the Caddyfile anew, as `systemctl reload caddy` does. */
  const reload = () => {
    const { status, stderr } = spawnSync(CADDY, ['reload', '--force', ...config], { env, encoding: 'utf8' });
    if (status !== 0) throw new Error(`caddy reload: ${stderr}`);
  };
  await Promise.race([ready(ask, () => log), failed]);
  return { url, httpPort, request, ask, reload, access: () => access };
}

async function ready(ask, log) {
  const deadline = Date.now() + START_MS;
  for (;;) {
    const answer = await ask('/health').catch((error) => error);
    if (answer.status === 200) return;
    if (Date.now() > deadline) throw new Error(`Caddy: no answer but ${answer.text ?? answer}\n${log()}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Held until all are known, so that they differ. */
async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => server.listening || once(server, 'listening')));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}
