// A real gateway for one test file: `BELLJAR_BIN` (default: the debug build), `BELLJAR_AGENT` (default: what
// `make agent` built), `BELLJAR_LAUNCHER` (default: docker).
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { front } from './caddy.mjs';

const target = (path) => fileURLToPath(new URL(`../../target/${path}`, import.meta.url));
// What is left in the environment is configuration of the gateway, which refuses names that it does not know.
const { BELLJAR_BIN = target('debug/belljar'), ...ENVIRONMENT } = process.env;
export const BINARY = BELLJAR_BIN;
const START_MS = 60_000;
const STOP_MS = 15_000;

export const LAUNCHER = process.env.BELLJAR_LAUNCHER ?? 'docker';

/**
 * Starts a gateway and waits until it is healthy. `settings` are `BELLJAR_…` variables without the prefix; `port`
 * is that of an earlier gateway, to take its place.
 */
export async function startGateway(settings = {}, port = null) {
  port ??= await freePort();
  const url = `http://127.0.0.1:${port}`;
  const variables = {
    LISTEN: `127.0.0.1:${port}`,
    LAUNCHER,
    AGENT: process.env.BELLJAR_AGENT ?? target('belljar-agent'),
    LIMITS__SESSIONS_PER_HOUR: '100',
    LIMITS__CONCURRENT_SESSIONS: '20',
    DOCKER__NAMESPACE: process.env.BELLJAR_DOCKER__NAMESPACE ?? 'e2e',
    ...settings,
  };
  const env = { ...ENVIRONMENT };
  for (const [name, value] of Object.entries(variables)) env[`BELLJAR_${name}`] = value;
  const child = spawn(BINARY, ['serve'], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  const keep = (chunk) => {
    log = (log + chunk).slice(-20_000);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  const failed = new Promise((_, reject) => {
    child.once('error', (error) => reject(new Error(`${BINARY}: ${error.message}`)));
    child.once('exit', (code, signal) => reject(new Error(`gateway ended (${code ?? signal}):\n${log}`)));
  });
  failed.catch(() => {});

  const end = async (signal) => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    const hard = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
    await gone;
    clearTimeout(hard);
  };
  /** Ends every session. */
  const stop = () => end('SIGINT');
  /** Leaves live sessions to the next gateway. */
  const handOver = () => end('SIGTERM');
  try {
    await Promise.race([healthy(url, () => log), failed]);
  } catch (error) {
    await stop();
    throw error;
  }
  const caddy = await front(port);
  return { url: caddy?.url ?? url, port, caddy, stop, handOver, log: () => log };
}

async function healthy(url, log) {
  const deadline = Date.now() + START_MS;
  for (;;) {
    const response = await fetch(`${url}/health`).catch(() => null);
    if (response?.ok) return;
    if (Date.now() > deadline) {
      const said = response === null ? 'no answer' : `${response.status} ${await response.text()}`;
      throw new Error(`not healthy after ${START_MS / 1000} s: ${said}\n${log()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}
