// What Caddy adds, and what it must not change: HTTPS, headers, addresses, its log, its reload. Everything else that
// visitors do runs through Caddy by the tests that do it without: `npm run e2e:caddy`.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { flaws } from './axe.mjs';
import { launch, PHONE, Visitor } from './browser.mjs';
import { wanted } from './caddy.mjs';
import { BINARY, LAUNCHER, startGateway } from './gateway.mjs';

const TIME = { timeout: 120_000 };
const sealed = LAUNCHER === 'process' ? 'plain processes end with their gateway' : false;
const JSON_BODY = { 'Content-Type': 'application/json' };

const skip = wanted() ? false : 'npm run e2e:caddy';

describe('behind Caddy', { skip }, () => {
  let gateway;
  let caddy;
  let browser;
  let keys;
  let key;

  before(async () => {
    keys = mkdtempSync(join(tmpdir(), 'belljar-e2e-keys-'));
    const file = { BELLJAR_API__KEYS_FILE: join(keys, 'keys.toml') };
    const made = spawnSync(BINARY, ['key', 'new', '--name', 'e2e'], {
      env: { PATH: process.env.PATH, ...file },
      encoding: 'utf8',
    });
    assert.equal(made.status, 0, made.stderr);
    key = made.stdout.trim();
    gateway = await startGateway({
      API__KEYS_FILE: file.BELLJAR_API__KEYS_FILE,
      LIMITS__CONCURRENT_SESSIONS: '2',
    });
    caddy = gateway.caddy;
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
    rmSync(keys, { recursive: true });
  });

  const open = async (options = {}) => {
    const answer = await caddy.ask('/sessions', {
      method: 'POST',
      headers: JSON_BODY,
      body: '{}',
      ...options,
    });
    assert.equal(answer.status, 201, answer.text);
    return JSON.parse(answer.text);
  };
  const end = ({ sessionId, token }) =>
    caddy.ask(`/sessions/${sessionId}`, { method: 'DELETE', headers: { Authorization: `Bearer ${token}` } });

  it('is HTTPS by an authority that can be checked, and plain HTTP is sent there', TIME, async () => {
    assert.equal((await caddy.ask('/health')).status, 200);
    await assert.rejects(caddy.ask('/health', { ca: [] }), /certificate/);
    const plain = await new Promise((resolve, reject) =>
      http.get(`http://localhost:${caddy.httpPort}/somewhere`, resolve).on('error', reject),
    );
    plain.resume();
    assert.equal(plain.statusCode, 308);
    assert.equal(plain.headers.location, `${gateway.url}/somewhere`);
  });

  it('says what pages may do, and not what it runs on', TIME, async () => {
    for (const path of ['/', '/status', '/nowhere']) {
      const { headers } = await caddy.ask(path);
      assert.match(headers['strict-transport-security'], /^max-age=\d{8}/, path);
      assert.match(headers['permissions-policy'], /camera=\(\)/, path);
      assert.equal(headers['x-content-type-options'], 'nosniff', path);
      assert.equal(headers.server, undefined, path);
    }
    const { headers } = await caddy.ask('/');
    assert.match(headers['content-security-policy'], /frame-ancestors 'self'/);
    assert.doesNotMatch(headers['content-security-policy'], /script-src[^;]*'unsafe-/);
  });

  it('shows nobody the metrics, however they are asked for', TIME, async () => {
    const paths = [
      '/metrics',
      '/metrics/',
      '//metrics',
      '/%6detrics',
      '/./metrics',
      '/x/../metrics',
      '/METRICS',
      '/metrics?a',
    ];
    for (const path of paths) {
      const { status, text } = await caddy.ask(path);
      assert.equal(status, 404, path);
      assert.doesNotMatch(text, /belljar_/, path);
    }
  });

  it('tells the gateway who visits, whatever the visitor claims', TIME, async () => {
    const claims = {
      'X-Forwarded-For': '203.0.113.9',
      'X-Real-IP': '203.0.113.9',
      Forwarded: 'for=203.0.113.9',
    };
    const session = await open({ localAddress: '127.0.0.77', headers: { ...JSON_BODY, ...claims } });
    const line = gateway
      .log()
      .split('\n')
      .find((said) => said.includes(session.sessionId));
    assert.match(line, /client"?[=:]"?127\.0\.0\.77/);
    assert.doesNotMatch(gateway.log(), /203\.0\.113\.9/);
    await end(session);
  });

  it('is not taken for a program of this machine', TIME, async () => {
    assert.equal((await caddy.ask('/api/v1/sandboxes')).status, 401);
    const answer = await caddy.ask('/api/v1/sandboxes', { headers: { 'X-API-Key': key } });
    assert.equal(answer.status, 200);
  });

  it('logs visits without query strings, tokens and keys', TIME, async () => {
    const session = await open();
    const { sessionId, token } = session;
    const path = `/sessions/${sessionId}`;
    const secrets = {
      Authorization: `Bearer ${token}`,
      'X-API-Key': key,
      Cookie: `token=${token}`,
      Referer: `${gateway.url}/?token=${token}`,
      'Sec-WebSocket-Protocol': `belljar.v1, ${token}`,
    };
    assert.equal((await caddy.ask(`${path}?token=${token}&last`, { headers: secrets })).status, 200);
    await end(session);
    await until(() => caddy.access().includes('"method":"DELETE"'));
    const lines = caddy
      .access()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.ok(lines.some(({ request, status }) => request.uri === path && status === 200));
    assert.ok(lines.every(({ request }) => !request.uri.includes('?')));
    assert.doesNotMatch(caddy.access(), new RegExp(`${token}|${key}`));
  });

  it('keeps a shell over a reload of Caddy', TIME, async () => {
    const visitor = await Visitor.open(browser, 'about:blank');
    await visitor.watchSockets();
    await visitor.page.goto(gateway.url);
    await visitor.prompt();
    await visitor.run('X=42');
    await visitor.sees(/X=42\n.*[$#]\s*$/);
    const sockets = () => visitor.page.evaluate(() => window.sockets.length);
    const before = await sockets();
    caddy.reload();
    await until(async () => (await sockets()) > before);
    await visitor.is('connected');
    await visitor.run('echo "X is <$X>"');
    await visitor.sees(/^X is <42>$/m);
    await visitor.page.getByRole('button', { name: /start a fresh one/ }).waitFor();
    await visitor.close();
  });

  it('streams, and a command ends with its reader', { ...TIME, skip: sealed }, async () => {
    const headers = { ...JSON_BODY, Authorization: `Bearer ${key}` };
    const created = await caddy.ask('/api/v1/sandboxes', {
      method: 'POST',
      headers,
      body: '{"template":"base"}',
    });
    assert.equal(created.status, 201, created.text);
    const path = `/api/v1/sandboxes/${JSON.parse(created.text).id}`;
    const running = async () => {
      const { text } = await caddy.ask(`${path}/processes`, { headers });
      return JSON.parse(text).length;
    };
    const request = caddy.request(`${path}/commands`, { method: 'POST', headers });
    request.end(JSON.stringify({ command: 'echo first; sleep 600', mode: 'stream' }));
    const [response] = await once(request, 'response');
    // Without waiting for more: the command says nothing else for ten minutes.
    let text = '';
    for await (const chunk of response) {
      text += chunk;
      if (text.includes('first')) break;
    }
    request.destroy();
    await until(async () => (await running()) === 0);
    await caddy.ask(path, { method: 'DELETE', headers });
  });
});

describe('limits, behind Caddy', { skip }, () => {
  let browser;

  before(async () => {
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
  });

  const start = async (test, settings) => {
    const gateway = await startGateway(settings);
    test.after(gateway.stop);
    return gateway;
  };

  it('an idle visitor is warned, extends, and is warned again', TIME, async (test) => {
    const gateway = await start(test, { LIMITS__IDLE_TIMEOUT: '20s' });
    const visitor = await Visitor.open(browser, gateway.url, PHONE);
    const here = visitor.page.getByRole('button', { name: "I'm here" });
    await here.click();
    await here.waitFor({ state: 'hidden' });
    // 15 s later, which is after the end that was announced.
    await here.waitFor();
    assert.equal((await visitor.state()).name, 'connected');
    assert.deepEqual(await flaws(visitor.page), []);
    const { end } = await visitor.is('ended');
    assert.equal(end.exit.reason, 'idle_timeout');
    assert.deepEqual(await flaws(visitor.page), []);
    await visitor.close();
  });

  it('who has enough terminals is told so, and may try again', TIME, async (test) => {
    const gateway = await start(test, { LIMITS__CONCURRENT_SESSIONS: '1' });
    const first = await Visitor.open(browser, gateway.url);
    await first.prompt();
    const second = await Visitor.open(browser, gateway.url, PHONE);
    await second.is('ended');
    await second.page.getByText('You have as many terminals open as one visitor may').first().waitFor();
    assert.deepEqual(await flaws(second.page), []);
    await first.run('exit');
    await first.is('ended');
    await second.page.getByRole('button', { name: /again/i }).click();
    await second.prompt();
    await first.close();
    await second.close();
  });
});

async function until(probe) {
  const deadline = Date.now() + 30_000;
  while (!(await probe())) {
    assert.ok(Date.now() < deadline, 'it did not happen within 30 s');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
